package dockerfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// instruction takes a logical line apart.
func (r *reader) instruction(text string) (*Instruction, error) {
	text = strings.TrimSpace(text)
	i := &Instruction{Original: text}
	rest := ""
	if n := strings.IndexAny(text, blanks); n >= 0 {
		i.Name, rest = text[:n], text[n:]
	} else {
		i.Name = text
	}
	i.Name = strings.ToUpper(i.Name)
	words, rest := r.flagWords(rest)
	for _, w := range words {
		name, value, has := strings.Cut(strings.TrimPrefix(w, "--"), "=")
		if err := i.addFlag(name, value, has); err != nil {
			return nil, err
		}
	}
	return i, r.arguments(i, strings.TrimSpace(rest))
}

// blanks separate words where nothing is quoted.
const blanks = " \t\v\f\r"

// arguments reads the rest of the line as the instruction has it.
func (r *reader) arguments(i *Instruction, rest string) (err error) {
	switch i.Name {
	case "RUN", "CMD", "ENTRYPOINT", "SHELL":
		return i.listOr(rest, func(rest string) []string {
			if rest == "" {
				return nil
			}
			return []string{rest}
		})
	case "ADD", "COPY", "VOLUME":
		return i.listOr(rest, splitBlanks)
	case "FROM", "EXPOSE":
		i.Args = splitBlanks(rest)
	case "HEALTHCHECK":
		kind, command := rest, ""
		if n := strings.IndexFunc(rest, unicode.IsSpace); n >= 0 {
			kind, command = rest[:n], strings.TrimSpace(rest[n:])
		}
		if kind == "" {
			return nil
		}
		err = i.listOr(command, func(rest string) []string {
			if rest == "" {
				return nil
			}
			return []string{rest}
		})
		i.Args = append([]string{kind}, i.Args...)
	case "ENV", "LABEL":
		return r.pairs(i, rest)
	case "ARG":
		for _, w := range r.quotedWords(rest) {
			name, value, set := strings.Cut(w, "=")
			i.Pairs = append(i.Pairs, Pair{Name: name, Value: value, Set: set})
		}
	default: // MAINTAINER, ONBUILD, STOPSIGNAL, USER, WORKDIR
		if rest != "" {
			i.Args = []string{rest}
		}
	}
	return err
}

// listOr reads a JSON list; what is none is split otherwise.
func (i *Instruction) listOr(rest string, otherwise func(string) []string) error {
	if strings.HasPrefix(rest, "[") {
		var list []any
		if json.Unmarshal([]byte(rest), &list) == nil {
			i.JSON = true
			for _, v := range list {
				s, ok := v.(string)
				if !ok {
					return errors.New("when using JSON array syntax, arrays must be comprised of strings only")
				}
				i.Args = append(i.Args, s)
			}
			return nil
		}
	}
	i.Args = otherwise(rest)
	return nil
}

func splitBlanks(rest string) []string {
	return strings.FieldsFunc(rest, func(c rune) bool { return strings.ContainsRune(blanks, c) })
}

// pairs reads NAME=VALUE words, or the old form NAME VALUE, whose value goes up to the end of the line.
func (r *reader) pairs(i *Instruction, rest string) error {
	words := r.quotedWords(rest)
	if len(words) == 0 {
		return nil
	}
	if !strings.Contains(words[0], "=") {
		n := strings.IndexAny(rest, blanks)
		if n < 0 {
			return fmt.Errorf("%s must have two arguments", i.Name)
		}
		i.Pairs = []Pair{{Name: rest[:n], Value: strings.TrimLeft(rest[n:], blanks), Set: true, Spaced: true}}
		return nil
	}
	for _, w := range words {
		name, value, ok := strings.Cut(w, "=")
		if !ok {
			return fmt.Errorf("can't find = in %q. Must be of the form: name=value", w)
		}
		i.Pairs = append(i.Pairs, Pair{Name: name, Value: value, Set: true})
	}
	return nil
}

// flagWords takes the words off the front that begin with "--", without their quotes, and returns what is left.
func (r *reader) flagWords(line string) (words []string, rest string) {
	for {
		line = strings.TrimLeftFunc(line, unicode.IsSpace)
		if !strings.HasPrefix(line, "--") {
			return words, line
		}
		w, after := r.word(line, false)
		if w == "--" {
			return words, after
		}
		words, line = append(words, w), after
	}
}

// quotedWords splits at blanks that are neither quoted nor escaped; quotes and escapes stay, for the expansion to see.
func (r *reader) quotedWords(line string) (words []string) {
	for {
		line = strings.TrimLeftFunc(line, unicode.IsSpace)
		if line == "" {
			return words
		}
		var w string
		if w, line = r.word(line, true); w != "" {
			words = append(words, w)
		}
	}
}

// word reads up to a blank that is neither quoted nor escaped. With raw, quotes and escapes stay in the word, and within
// single quotes nothing is escaped.
func (r *reader) word(line string, raw bool) (word, rest string) {
	var b strings.Builder
	var quote rune
	runes := []rune(line)
	for n := 0; n < len(runes); n++ {
		c := runes[n]
		switch {
		case c == r.file.Escape && !(raw && quote == '\''):
			if n+1 == len(runes) {
				return b.String(), "" // one at the very end is left out
			}
			if raw {
				b.WriteRune(c)
			}
			n++
			b.WriteRune(runes[n])
			continue
		case quote == 0 && unicode.IsSpace(c):
			return b.String(), string(runes[n:])
		case quote == 0 && (c == '\'' || c == '"'):
			if quote = c; !raw {
				continue
			}
		case c == quote:
			if quote = 0; !raw {
				continue
			}
		}
		b.WriteRune(c)
	}
	return b.String(), ""
}

func oneLine(text string) string {
	line, _, more := strings.Cut(strings.TrimSpace(text), "\n")
	if more {
		line += " …"
	}
	return line
}
