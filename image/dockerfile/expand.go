package dockerfile

import (
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// Expander replaces variables in words as a shell does: $NAME, ${NAME}, ${NAME:-word} and the other forms that Dockerfiles
// know. It remembers which names it has not found. It is buildkit's, so that no form is forgotten.
type Expander struct {
	Env     []string // NAME=VALUE
	Missing map[string]bool

	escape rune
	given  int // bytes of values that the word at hand has asked for
}

// maxWord bounds what a word may become. The kernel passes no longer string to a program (MAX_ARG_STRLEN, execve(2)), and without
// a limit forty lines that double a variable each fill the memory.
const maxWord = 128 << 10

// ErrTooLong is a word that has become too long.
var ErrTooLong = fmt.Errorf("a value of more than %d bytes", maxWord)

// Get and Keys make it what the lexer asks. Once the word is too long, all variables are empty.
func (x *Expander) Get(name string) (string, bool) {
	for _, e := range x.Env {
		if value, ok := strings.CutPrefix(e, name+"="); ok {
			if x.given += len(value); x.given > maxWord {
				return "", true
			}
			return value, true
		}
	}
	return "", false
}

// Keys are for Windows, where capitals do not count.
func (x *Expander) Keys() []string { return nil }

// NewExpander returns one that knows the variables of env.
func (f *File) NewExpander(env []string) *Expander {
	return &Expander{Env: env, Missing: map[string]bool{}, escape: f.Escape}
}

// Word expands a word and takes its quotes away.
func (x *Expander) Word(word string) (string, error) {
	return x.word(shell.NewLex(x.escape), word)
}

// Content expands the text of a heredoc, which keeps its quotes.
func (x *Expander) Content(text string) (string, error) {
	if len(text) > maxWord && !strings.ContainsAny(text, `$\`) {
		return text, nil // there is nothing to expand
	}
	lex := shell.NewLex(x.escape)
	lex.RawQuotes, lex.RawEscapes, lex.SkipProcessQuotes = true, false, true
	return x.word(lex, text)
}

func (x *Expander) word(lex *shell.Lex, word string) (string, error) {
	x.given = 0
	r, err := lex.ProcessWordWithMatches(word, x)
	if err == nil && (x.given > maxWord || len(r.Result) > maxWord) {
		return "", ErrTooLong
	}
	for name := range r.Unmatched {
		x.Missing[name] = true
	}
	return r.Result, err
}

// Words expands a word of which several can come, where a variable holds blanks.
func (x *Expander) Words(word string) ([]string, error) {
	x.given = 0
	words, err := shell.NewLex(x.escape).ProcessWords(word, x)
	if x.given > maxWord {
		return nil, ErrTooLong
	}
	return words, err
}

// All expands each of several words.
func (x *Expander) All(words []string) ([]string, error) {
	out := make([]string, len(words))
	for i, w := range words {
		var err error
		if out[i], err = x.Word(w); err != nil {
			return nil, err
		}
	}
	return out, nil
}
