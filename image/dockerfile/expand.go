package dockerfile

import (
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// Expander replaces variables in words as a shell does: $NAME, ${NAME}, ${NAME:-word} and the other forms that Dockerfiles
// know. It remembers which names it has not found. It is buildkit's, so that no form is forgotten.
type Expander struct {
	Env     []string // NAME=VALUE
	Missing map[string]bool

	escape rune
}

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
	lex := shell.NewLex(x.escape)
	lex.RawQuotes, lex.RawEscapes, lex.SkipProcessQuotes = true, false, true
	return x.word(lex, text)
}

func (x *Expander) word(lex *shell.Lex, word string) (string, error) {
	r, err := lex.ProcessWordWithMatches(word, shell.EnvsFromSlice(x.Env))
	for name := range r.Unmatched {
		x.Missing[name] = true
	}
	return r.Result, err
}

// Words expands a word of which several can come, where a variable holds blanks.
func (x *Expander) Words(word string) ([]string, error) {
	return shell.NewLex(x.escape).ProcessWords(word, shell.EnvsFromSlice(x.Env))
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
