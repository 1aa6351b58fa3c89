package labs

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nslab/nslab/course"
)

const module = "github.com/nslab/nslab/"

var folder = regexp.MustCompile(`^(\d\d)-([a-z0-9]+)$`)

// TestCourse holds the shape of the course: each folder is a lab in the list, in order, with two lessons that fit its
// steps and scenarios of its own.
func TestCourse(t *testing.T) {
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var folders []string
	for _, e := range entries {
		if e.IsDir() && folder.MatchString(e.Name()) {
			folders = append(folders, e.Name())
		}
	}
	var listed []string
	for _, l := range All() {
		listed = append(listed, l.Name())
		t.Run(l.Name(), func(t *testing.T) {
			if err := l.Verify(); err != nil {
				t.Error(err)
			}
			scripts, err := filepath.Glob(filepath.Join("..", "testdata", "script", l.Slug+"_*.txtar"))
			if err != nil || len(scripts) < 3 {
				t.Errorf("scenarios named %s_*.txtar: %d, %v; want at least 3", l.Slug, len(scripts), err)
			}
			if !packageComment(t, l) {
				t.Error("no file has a package comment")
			}
		})
	}
	if !slices.Equal(folders, listed) {
		t.Errorf("labs.All() lists %q; the folders are %q", listed, folders)
	}
}

func packageComment(t *testing.T, l *course.Lab) bool {
	for _, f := range parseAll(t, l) {
		if f.Doc != nil && len(f.Doc.Text()) > 200 {
			return true
		}
	}
	return false
}

// parseAll parses the sources that a lab embeds, which are those a learner can read at a pause.
func parseAll(t *testing.T, l *course.Lab) map[string]*ast.File {
	t.Helper()
	names, err := fs.Glob(l.Files, "*.go")
	if err != nil || len(names) == 0 {
		t.Fatalf("sources of %s: %q, %v", l.Name(), names, err)
	}
	files := map[string]*ast.File{}
	for _, name := range names {
		text, err := fs.ReadFile(l.Files, name)
		if err != nil {
			t.Fatal(err)
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = f
	}
	return files
}

// messageArg says which argument of T's methods is the message to translate.
var messageArg = map[string]int{"See": 0, "Check": 3, "Equal": 2}

// messageFields are the fields that hold messages: of a diagnosis condition, and of a step's table of cases.
var messageFields = map[string]bool{"What": true, "Remedy": true, "check": true}

// TestMessages holds the translations: what a step can say has its Chinese with the same verbs, and nothing else has.
func TestMessages(t *testing.T) {
	for _, l := range All() {
		t.Run(l.Name(), func(t *testing.T) {
			said := map[string]bool{}
			literals := map[string]bool{}
			for name, file := range parseAll(t, l) {
				for _, text := range messages(t, name, file) {
					said[text] = true
				}
				if name != "zh.go" {
					collect(file, literals)
				}
			}
			for text := range said {
				zh, ok := l.Zh()[text]
				if !ok {
					t.Errorf("no Chinese for %q", text)
				} else if a, b := verbs(text), verbs(zh); a != b {
					t.Errorf("verbs of %q are %s; of %q %s", text, a, zh, b)
				}
			}
			for text := range l.Zh() {
				if !said[text] && !literals[text] { // a condition's text may come through a variable
					t.Errorf("Chinese for %q, which no step says", text)
				}
			}
		})
	}
}

// messages lists the literals that a file passes to See, Check and Equal of a T called t, and the texts of diagnosis
// conditions.
func messages(t *testing.T, name string, file *ast.File) (list []string) {
	add := func(e ast.Expr) {
		lit, ok := e.(*ast.BasicLit)
		if !ok {
			return // built from something else: the literals it is built from are found where they stand
		}
		if text, err := strconv.Unquote(lit.Value); err == nil && text != "" {
			list = append(list, text)
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			sel, ok := n.Fun.(*ast.SelectorExpr)
			if !ok {
				break
			}
			i, ok := messageArg[sel.Sel.Name]
			recv, isT := sel.X.(*ast.Ident)
			if !ok || !isT || recv.Name != "t" || i >= len(n.Args) {
				break
			}
			_, literal := n.Args[i].(*ast.BasicLit)
			field, isField := n.Args[i].(*ast.SelectorExpr)
			if !literal && !(isField && messageFields[field.Sel.Name]) {
				t.Errorf("%s: the message of t.%s is neither a literal nor a field of a known name", name, sel.Sel.Name)
			}
			add(n.Args[i])
		case *ast.KeyValueExpr:
			if key, ok := n.Key.(*ast.Ident); ok && messageFields[key.Name] {
				add(n.Value)
			}
		}
		return true
	})
	return list
}

// collect adds all string literals of a file.
func collect(file *ast.File, literals map[string]bool) {
	ast.Inspect(file, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if text, err := strconv.Unquote(lit.Value); err == nil {
				literals[text] = true
			}
		}
		return true
	})
}

var verb = regexp.MustCompile(`%(\[\d+\])?[-+# 0]*[0-9]*(\.[0-9]+)?([a-zA-Z])`)

// verbs renders which arguments a format uses, and how, in the order of the arguments.
func verbs(format string) string {
	var list []string
	next := 1
	for _, m := range verb.FindAllStringSubmatch(strings.ReplaceAll(format, "%%", ""), -1) {
		if m[1] != "" {
			next, _ = strconv.Atoi(strings.Trim(m[1], "[]"))
		}
		list = append(list, fmt.Sprintf("%02d%s", next, m[3]))
		next++
	}
	slices.Sort(list)
	return strings.Join(slices.Compact(list), " ")
}

func TestVerbs(t *testing.T) {
	for format, want := range map[string]string{
		"%s of %s": "01s 02s", "%[2]s of %[1]s": "01s 02s", "20 %% of %d": "01d", "%.1f %%": "01f", "%s %[1]s": "01s",
	} {
		if got := verbs(format); got != want {
			t.Errorf("verbs(%q) = %q; want %q", format, got, want)
		}
	}
}

// TestDirection holds the direction of the imports: a lab imports only labs before it, the engine of the course no lab,
// and nobody but the command line itself its packages.
func TestDirection(t *testing.T) {
	err := filepath.WalkDir("..", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		from, err := filepath.Rel("..", filepath.Dir(path))
		if err != nil {
			return err
		}
		for _, spec := range file.Imports {
			to, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if to, ours := strings.CutPrefix(to, module); ours {
				if why := forbidden(from, to); why != "" {
					t.Errorf("%s imports %s: %s", path, to, why)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// forbidden says why package to must not be imported by package from; "" where it may.
func forbidden(from, to string) string {
	lab := func(path string) string { // the number, "" for other packages
		if rest, ok := strings.CutPrefix(path, "labs/"); ok {
			return rest[:2]
		}
		return ""
	}
	switch {
	case strings.HasPrefix(to, "cmd/") && !strings.HasPrefix(from, "cmd/"):
		return "the command line is nobody's library"
	case lab(from) != "" && lab(to) != "" && lab(to) >= lab(from):
		return "a lab builds only on labs before it"
	case lab(from) != "" && (to == "engine" || strings.HasPrefix(to, "engine/") || to == "image" || to == "doctor" || to == "labs"):
		return "a lab stands below what uses it"
	case from == "image" && strings.HasPrefix(to, "engine"):
		return "an image knows no container"
	case strings.HasPrefix(from, "course") && (lab(to) != "" || to == "labs" || to == "doctor" || to == "engine"):
		return "the walkthrough engine knows no lab"
	case (from == "trace" || from == "diagnosis") && to != "":
		return "it is a leaf"
	}
	return ""
}

func TestForbidden(t *testing.T) {
	for _, pair := range [][2]string{
		{"labs/02-mount", "labs/03-cgroups"}, {"labs/01-pid", "cmd/nslab"}, {"labs/01-pid", "engine"},
		{"labs/12-container", "engine/stream"}, {"image", "engine"}, {"engine", "cmd/nslab/format"},
		{"course", "labs/01-pid"}, {"course/actor", "labs"}, {"trace", "course"},
	} {
		if forbidden(pair[0], pair[1]) == "" {
			t.Errorf("forbidden(%q, %q) = \"\"; want a reason", pair[0], pair[1])
		}
	}
	for _, pair := range [][2]string{{"labs/03-cgroups", "labs/01-pid"}, {"cmd/nslab", "cmd/nslab/format"}, {"engine", "image"}} {
		if why := forbidden(pair[0], pair[1]); why != "" {
			t.Errorf("forbidden(%q, %q) = %q; want none", pair[0], pair[1], why)
		}
	}
}
