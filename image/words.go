package image

import (
	"fmt"
	"strings"
)

// Words of a Dockerfile are not a shell's: quotes and backslashes group, $NAME, ${NAME}, ${NAME:-other} and ${NAME:+other}
// are replaced by the image's own environment, and nothing else has a meaning.

// splitWords splits at blanks that are not quoted. Quotes and backslashes stay, for expand.
func splitWords(s string) (words []string, err error) {
	var word strings.Builder
	quote, inWord := byte(0), false
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && quote != '\'' && i+1 < len(s):
			word.WriteByte(c)
			i++
			c = s[i]
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote == 0 && (c == ' ' || c == '\t'):
			if inWord {
				words = append(words, word.String())
				word.Reset()
			}
			inWord = false
			continue
		}
		word.WriteByte(c)
		inWord = true
	}
	if quote != 0 {
		return nil, fmt.Errorf("unexpected end of line while looking for a matching %c", quote)
	}
	if inWord {
		words = append(words, word.String())
	}
	if len(words) == 0 {
		return nil, fmt.Errorf("nothing follows the instruction")
	}
	return words, nil
}

// expandedWords splits and expands.
func expandedWords(s string, env []string) ([]string, error) {
	words, err := splitWords(s)
	for i := range words {
		if err == nil {
			words[i], err = expand(words[i], env)
		}
	}
	return words, err
}

// expand removes quotes and backslashes and replaces variables.
func expand(s string, env []string) (string, error) {
	var out strings.Builder
	quote := byte(0)
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && quote == 0 && i+1 < len(s):
			i++
			out.WriteByte(s[i])
		case c == '\\' && quote == '"' && i+1 < len(s) && strings.IndexByte(`"$\`, s[i+1]) >= 0:
			i++
			out.WriteByte(s[i])
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case c == '$' && quote != '\'':
			value, n, err := variable(s[i:], env)
			if err != nil {
				return "", err
			}
			out.WriteString(value)
			i += n - 1
		default:
			out.WriteByte(c)
		}
	}
	if quote != 0 {
		return "", fmt.Errorf("unexpected end of line while looking for a matching %c", quote)
	}
	return out.String(), nil
}

// variable replaces what begins with a dollar sign, and says how long it was.
func variable(s string, env []string) (value string, length int, err error) {
	if !strings.HasPrefix(s, "${") {
		n := 1
		for n < len(s) && (isAlnum(s[n]) && !(n == 1 && isDigit(s[n])) || s[n] == '_') {
			n++
		}
		if n == 1 {
			return "$", 1, nil
		}
		value, _ = lookup(env, s[1:n])
		return value, n, nil
	}
	end, depth := 0, 0
	for i := 1; i < len(s) && end == 0; i++ {
		switch s[i] {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				end = i
			}
		}
	}
	name, modifier, hasModifier := strings.Cut(s[2:max(end, 2)], ":")
	if end == 0 || name == "" || !all(name, func(c byte) bool { return isAlnum(c) || c == '_' }) {
		return "", 0, fmt.Errorf("bad substitution in %q", s)
	}
	value, _ = lookup(env, name)
	if !hasModifier {
		return value, end + 1, nil
	}
	if modifier == "" || modifier[0] != '-' && modifier[0] != '+' {
		return "", 0, fmt.Errorf("unsupported modifier in %q: only :- and :+ are known", s[:end+1])
	}
	other, err := expand(modifier[1:], env)
	if (modifier[0] == '-') == (value == "") {
		value = other
	}
	return value, end + 1, err
}

func lookup(env []string, name string) (string, bool) {
	for _, e := range env {
		if value, ok := strings.CutPrefix(e, name+"="); ok {
			return value, true
		}
	}
	return "", false
}
