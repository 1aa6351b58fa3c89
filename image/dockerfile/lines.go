package dockerfile

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// reader finds the instructions of a text.
type reader struct {
	file         *File
	list         []*Instruction
	raw          []string // lines with their ends: a heredoc keeps them
	next         int      // of raw
	noDirectives bool
	directives   []string // that were seen
}

func newReader(name string, text []byte) *reader {
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")) // a byte order mark
	r := &reader{file: &File{Name: name, Escape: '\\'}}
	for line := range strings.Lines(string(text)) {
		r.raw = append(r.raw, line)
		r.file.Lines = append(r.file.Lines, strings.TrimRight(line, "\r\n"))
	}
	return r
}

func (r *reader) read() error {
	for r.next < len(r.raw) {
		first := r.next + 1
		text, err := r.logicalLine()
		if err != nil {
			return err
		}
		if text == "" {
			continue
		}
		i, err := r.instruction(text)
		if err == nil && strings.Contains(text, "<<") {
			err = r.heredocs(i, text)
		}
		if err == nil {
			err = i.check()
		}
		if err != nil {
			return &Error{r.file, first, r.next, err}
		}
		i.First, i.Last = first, r.next
		r.list = append(r.list, i)
	}
	if len(r.list) == 0 {
		return &Error{File: r.file, Err: fmt.Errorf("file with no instructions")}
	}
	return nil
}

// logicalLine reads a line with those that continue it. Comments and empty lines between them are left out. The text is empty
// where there is no instruction.
func (r *reader) logicalLine() (string, error) {
	var text strings.Builder
	for begun := false; r.next < len(r.raw); begun = true {
		line := strings.TrimRight(r.raw[r.next], "\r\n")
		if !begun {
			line = strings.TrimLeftFunc(line, unicode.IsSpace)
		}
		r.next++
		if err := r.directive(line); err != nil {
			return "", &Error{r.file, r.next, r.next, err}
		}
		blank := strings.TrimSpace(line)
		if strings.HasPrefix(blank, "#") {
			if begun {
				continue
			}
			return "", nil
		}
		if begun && blank == "" {
			continue
		}
		line, more := r.continues(line)
		text.WriteString(line)
		if !more {
			break
		}
	}
	return text.String(), nil
}

// continues takes the escape character off the end of a line. One that is escaped itself is none.
func (r *reader) continues(line string) (string, bool) {
	esc := string(r.file.Escape)
	before, ok := strings.CutSuffix(strings.TrimRight(line, " \t"), esc)
	if !ok || strings.HasSuffix(before, esc) {
		return line, false
	}
	return before, true
}

// directive reads "# name=value". They stand at the very beginning: the first line that is none is the end of them.
func (r *reader) directive(line string) error {
	if r.noDirectives {
		return nil
	}
	name, value, ok := strings.Cut(strings.TrimPrefix(line, "#"), "=")
	name, value = strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)
	if !ok || !strings.HasPrefix(line, "#") || value == "" || !slices.Contains([]string{"syntax", "escape", "check"}, name) {
		r.noDirectives = true
		return nil
	}
	if slices.Contains(r.directives, name) {
		return fmt.Errorf("only one %s parser directive can be used", name)
	}
	r.directives = append(r.directives, name)
	if name != "escape" {
		return nil
	}
	if value != "`" && value != `\` {
		return fmt.Errorf("invalid escape token '%s' does not match ` or \\", value)
	}
	r.file.Escape = rune(value[0])
	return nil
}

// heredocs reads the files that follow an instruction, one after the other.
func (r *reader) heredocs(i *Instruction, text string) error {
	if !i.takesHeredocs() {
		return nil
	}
	words, err := rawWords(text)
	if err != nil && i.Name == "RUN" {
		return nil // it is the shell's, then
	}
	if err != nil {
		return errors.New("a quote is not closed, so it is not clear what is a heredoc")
	}
	for _, word := range words {
		h, chomp, ok := heredocWord(word)
		if !ok {
			continue
		}
		if err := r.heredoc(&h, chomp); err != nil {
			return err
		}
		i.Heredocs = append(i.Heredocs, h)
	}
	return nil
}

func (r *reader) heredoc(h *Heredoc, chomp bool) error {
	var content, raw strings.Builder
	for r.next < len(r.raw) {
		line := r.raw[r.next]
		r.next++
		raw.WriteString(line)
		if chomp {
			line = strings.TrimLeft(line, "\t")
		}
		if strings.TrimRight(line, "\r\n") == h.Name {
			h.Content, h.Raw = content.String(), strings.TrimSuffix(raw.String(), r.raw[r.next-1])
			return nil
		}
		content.WriteString(line)
	}
	return fmt.Errorf("unterminated heredoc: there is no line %q", h.Name)
}

// takesHeredocs says whether "<<" is the builder's: in a JSON list it is not.
func (i *Instruction) takesHeredocs() bool {
	name := i.Name
	if name == "ONBUILD" && len(i.Args) > 0 {
		trigger, _, _ := strings.Cut(i.Args[0], " ")
		name = strings.ToUpper(trigger)
	}
	return !i.JSON && slices.Contains([]string{"ADD", "COPY", "RUN"}, name)
}

// rawWords splits a line as a shell does, and leaves quotes and backslashes where they are.
func rawWords(text string) ([]string, error) {
	lex := shell.NewLex('\\')
	lex.RawQuotes, lex.RawEscapes, lex.SkipUnsetEnv = true, true, true
	return lex.ProcessWords(text, noVariables{})
}

// heredocWord reads "<<EOF", "<<-EOF" or "3<<'EOF'".
func heredocWord(word string) (h Heredoc, chomp, ok bool) {
	rest, ok := strings.CutPrefix(strings.TrimLeft(word, "0123456789"), "<<")
	if !ok {
		return h, false, false
	}
	rest, chomp = strings.CutPrefix(rest, "-")
	rest = strings.TrimLeft(rest, " \t\n\f\r")
	if rest == "" || strings.Contains(rest, "<") {
		return h, false, false
	}
	lex := shell.NewLex('\\')
	lex.SkipUnsetEnv = true
	words, err := lex.ProcessWords(rest, noVariables{})
	if err != nil || len(words) != 1 {
		return h, false, false
	}
	quotes := func(s string) int { return strings.Count(s, "'") + strings.Count(s, `"`) }
	return Heredoc{Name: words[0], Expand: quotes(words[0]) == quotes(rest)}, chomp, true
}

// HeredocIn says which heredoc a word stands for, if it is one and nothing else.
func (i *Instruction) HeredocIn(word string) (Heredoc, bool) {
	h, _, ok := heredocWord(word)
	if !ok {
		return h, false
	}
	for _, have := range i.Heredocs {
		if have.Name == h.Name {
			return have, true
		}
	}
	return h, false
}

type noVariables struct{}

func (noVariables) Get(string) (string, bool) { return "", false }
func (noVariables) Keys() []string            { return nil }
