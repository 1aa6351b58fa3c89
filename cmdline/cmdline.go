// Package cmdline reads the first words of nslab's command line, for what has to happen before those read it in earnest who need
// all commands and flags for it. It only knows the flags that may stand before the words, and is not sure of anything else: where it
// understands a line in another way than they do, nothing may come of it but a waste of time.
//
// It is for package headstart, too, which is initialized before nearly all others, and so it imports nothing.
package cmdline

// Line is "nslab --run-root DIR container run ARGS…".
type Line struct {
	Noun, Verb string
	Args       []string // what follows the two
	RunRoot    string   // "" where no flag says so
}

// Read takes a command line apart. One that it does not understand has no noun; one of a single word has no verb.
func Read(args []string) (l Line) {
	for i := 1; i < len(args); i++ {
		name, value, given := cut(args[i])
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
		case len(name) > 0 && name[0] == '-':
			return Line{}
		case l.Noun == "":
			l.Noun = args[i]
		default:
			l.Verb, l.Args = args[i], args[i+1:]
			return l
		}
	}
	return l
}

// cut takes "--flag=value" apart.
func cut(arg string) (name, value string, given bool) {
	for i := range len(arg) {
		if arg[i] == '=' {
			return arg[:i], arg[i+1:], true
		}
	}
	return arg, "", false
}
