package course

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// showSource prints the functions of the stage in which the step's calls stand, from the sources that this very program
// was built from, with an arrow at each line that made a call.
func (w *walker) showSource() {
	marks := map[string]map[int]bool{} // file → lines
	var order []string
	for _, r := range w.screen.dos {
		file, line, ok := strings.Cut(r.At, ":")
		n, err := strconv.Atoi(line)
		if !ok || err != nil {
			continue
		}
		if marks[file] == nil {
			marks[file] = map[int]bool{}
			order = append(order, file)
		}
		marks[file][n] = true
	}
	shown := false
	for _, file := range order {
		// The calls of another lab's stage stand in that lab's folder.
		text, err := fs.ReadFile(w.sources(file), path.Base(file))
		if err != nil {
			continue
		}
		for _, f := range functionsAt(string(text), marks[file]) {
			fmt.Fprintln(w.out, "\n"+cyan(fmt.Sprintf("%s:%d", file, f.from)))
			for n := f.from; n <= f.to; n++ {
				arrow := " "
				if marks[file][n] {
					arrow = green("→")
				}
				fmt.Fprintf(w.out, "%s %s  %s\n", faint(fmt.Sprintf("%5d", n)), arrow, strings.ReplaceAll(f.lines[n-f.from], "\t", "    "))
			}
			shown = true
		}
	}
	if !shown {
		fmt.Fprintln(w.out, strings.Repeat(" ", labelIndent)+w.screen.say("this step has called nothing in the stage"))
	}
	w.screen.blank()
}

// sources is the embedded folder that holds file, "labs/01-pid/pid.go".
func (w *walker) sources(file string) fs.FS {
	if l := find(w.labs, path.Base(path.Dir(file))); l != nil {
		return l.Files
	}
	return w.lab.Files
}

// extent is a function of a source file, from the first line of its comment to the last of its body.
type extent struct {
	from, to int
	lines    []string
}

// functionsAt finds the functions of a Go source around the given lines, in the file's order.
func functionsAt(text string, marks map[int]bool) []extent {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "", text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil // these are the sources that the compiler took
	}
	lines := strings.Split(text, "\n")
	var all []extent
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		from, to := fset.Position(f.Pos()).Line, fset.Position(f.End()).Line
		for n := range marks {
			if from <= n && n <= to {
				if f.Doc != nil {
					from = fset.Position(f.Doc.Pos()).Line
				}
				all = append(all, extent{from, to, lines[from-1 : to]})
				break
			}
		}
	}
	return all
}
