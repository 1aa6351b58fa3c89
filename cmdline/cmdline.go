// Package cmdline reads the first words of nslab's command line, for what has to happen before the packages are initialized that
// read it in earnest. It only knows the flags that may stand before the words, and is not sure of anything else: where it
// understands a line in another way than they do, nothing may come of it but a waste of time.
package cmdline

import "strings"

// Line is "nslab --run-root DIR container run ARGS…".
type Line struct {
	Noun, Verb string
	Args       []string // what follows the two
	RunRoot    string   // "" where no flag says so
}

// Read takes a command line apart. One that it does not understand has no noun.
func Read(args []string) (l Line) {
	var words []string
	for i := 1; i < len(args); i++ {
		name, value, given := strings.Cut(args[i], "=")
		switch {
		case name == "--root" || name == "--run-root" || name == "--lang":
			if !given {
				if i++; i == len(args) {
					return Line{}
				}
				value = args[i]
			}
			if name == "--run-root" {
				l.RunRoot = value
			}
		case strings.HasPrefix(args[i], "-"):
			return Line{}
		default:
			words = append(words, args[i])
		}
		if len(words) == 2 {
			l.Noun, l.Verb, l.Args = words[0], words[1], args[i+1:]
			return l
		}
	}
	return Line{}
}
