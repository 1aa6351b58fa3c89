package doctor

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/fatih/color"

	"github.com/nslab/nslab/course"
)

// sample has every state, texts that must be wrapped, and two findings with one cause.
func sample() ([]Result, []*course.Lab) {
	long := say("%s → %s", `mkdir("/sys/fs/cgroup/memory/user.slice/user-1000.slice/session-1.scope/nslab-doctor-3f9c-4242", 0755)`,
		errnoText(syscall.EROFS))
	lab := &course.Lab{Number: 3, Slug: "cgroups", Needs: []course.Need{course.NeedCgroupCPU, course.NeedCgroupMemory}}
	remedy := []Message{say("start the container with %s", command("docker run --privileged"))}
	return []Result{
		{ID: "privilege", State: StateOK, Found: say("uid %d with CAP_SYS_ADMIN", 0)},
		{ID: "privilege.caps", State: StateNote, Found: say("without %s: no lab needs it, some limits cannot be raised", "CAP_SYS_RESOURCE")},
		{ID: "cgroup.cpu", State: StateMissing, Found: long, Blocks: []string{lab.Name()}, Remedy: remedy},
		{ID: "cgroup.memory", State: StateMissing, Found: long, Blocks: []string{lab.Name()}, Remedy: remedy},
		{ID: "machine.leftovers", State: StateOK, Found: say("none below %s", "/run/nslab")},
	}, []*course.Lab{lab, {Number: 1, Slug: "pid"}}
}

func TestReportWidth(t *testing.T) {
	results, labs := sample()
	for _, lang := range []string{"en", "zh"} {
		for _, columns := range []int{50, 80, 110} {
			t.Setenv("COLUMNS", strconv.Itoa(columns))
			var out bytes.Buffer
			if err := Report(&out, results, labs, lang); err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(out.String()) {
				if w := course.Width(strings.TrimSuffix(line, "\n")); w > columns {
					t.Errorf("%s at %d columns: %d wide: %s", lang, columns, w, line)
				}
			}
			hint, _, _ := strings.Cut(say("hint: %s").In(lang), "%s")
			if n := strings.Count(out.String(), strings.TrimSpace(hint)); n != 1 {
				t.Errorf("%s: one hint for one cause, but it stands there %d times", lang, n)
			}
		}
	}
}

func TestReportText(t *testing.T) {
	t.Setenv("COLUMNS", "80")
	results, labs := sample()
	var out bytes.Buffer
	if err := Report(&out, results, labs, "en"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Privilege\n  ✓ privilege           uid 0 with CAP_SYS_ADMIN\n",
		"  · privilege.caps      without CAP_SYS_RESOURCE",
		"                        blocks 03-cgroups\n",
		"                        hint: start the container with docker run --privileged\n",
		"03-cgroups   blocked by cgroup.cpu, cgroup.memory\n01-pid       ready\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("colours where there is no terminal")
	}
	color.NoColor = false
	defer func() { color.NoColor = true }()
	out.Reset()
	if err := Report(&out, results, labs, "en"); err != nil || !strings.Contains(out.String(), "\x1b[31m✗") {
		t.Errorf("no red mark on a terminal: %v", err)
	}
}

func TestReportJSON(t *testing.T) {
	results, labs := sample()
	var out bytes.Buffer
	if err := ReportJSON(&out, results, labs, "en"); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != len(results)+1 {
		t.Fatalf("%d lines; want one for each result and one for the labs", len(lines))
	}
	var last struct {
		Result string
		Labs   []labJSON
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil {
		t.Fatal(err)
	}
	if last.Result != "blocked" || last.Labs[0].Ready || !slices.Equal(last.Labs[0].BlockedBy, []string{"cgroup.cpu", "cgroup.memory"}) ||
		!last.Labs[1].Ready {
		t.Errorf("last line = %+v", last)
	}
	if want := `{"id":"privilege","state":"ok","ok":true,"found":"uid 0 with CAP_SYS_ADMIN","blocks":[],"remedy":[]}`; lines[0] != want {
		t.Errorf("first line = %s; want %s", lines[0], want)
	}
}

func TestReportBlocked(t *testing.T) {
	results, labs := sample()
	var stdout, stderr bytes.Buffer
	ReportBlocked(&stdout, &stderr, labs[0], results[2:4], "en", "text")
	lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
	if stdout.Len() > 0 || len(lines) != 3 || !strings.HasPrefix(lines[0], "nslab: 03-cgroups cannot run here: cgroup.cpu: mkdir(") ||
		lines[1] != "hint: start the container with docker run --privileged" {
		t.Errorf("text: stdout %q, stderr %q", stdout.String(), lines)
	}
	stderr.Reset()
	ReportBlocked(&stdout, &stderr, labs[0], results[2:4], "zh", "json")
	var line struct {
		Lab, Result string
		Missing     []asJSON
	}
	if err := json.Unmarshal(stdout.Bytes(), &line); err != nil || strings.Count(stdout.String(), "\n") != 1 {
		t.Fatalf("json: %q: %v", stdout.String(), err)
	}
	if stderr.Len() > 0 || line.Lab != "03-cgroups" || line.Result != "blocked" || len(line.Missing) != 2 || line.Missing[1].ID != "cgroup.memory" {
		t.Errorf("json: %+v, stderr %q", line, stderr.String())
	}
}

var verb = regexp.MustCompile(`%(\[\d+\])?[a-z]`)

// TestTranslations finds every text that the package says and wants it in Chinese, with the same verbs.
func TestTranslations(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]string{}
	for _, g := range groups {
		said[g.title] = "groups"
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			for _, text := range textsOf(n) {
				said[text] = file
			}
			return true
		})
	}
	if len(said) < 80 {
		t.Fatalf("only %d texts found: does this test still look where they are?", len(said))
	}
	letters := regexp.MustCompile(`\p{L}`)
	for text, file := range said {
		if !letters.MatchString(verb.ReplaceAllString(text, "")) {
			continue
		}
		chinese, ok := zh()[text]
		if !ok {
			t.Errorf("%s: %q has no Chinese", file, text)
			continue
		}
		if a, b := verb.FindAllString(text, -1), verb.FindAllString(chinese, -1); !slices.Equal(a, b) {
			t.Errorf("%q has the verbs %v; its Chinese %v", text, a, b)
		}
	}
}

// textsOf are the texts in say("…"), &wrong{"…"}, and the constants named wrong….
func textsOf(n ast.Node) (list []string) {
	add := func(e ast.Expr) {
		if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if s, err := strconv.Unquote(lit.Value); err == nil {
				list = append(list, s)
			}
		}
	}
	switch n := n.(type) {
	case *ast.CallExpr:
		if name, ok := n.Fun.(*ast.Ident); ok && name.Name == "say" {
			add(n.Args[0])
		}
	case *ast.CompositeLit:
		if name, ok := n.Type.(*ast.Ident); ok && name.Name == "wrong" {
			add(n.Elts[0])
		}
	case *ast.ValueSpec:
		if strings.HasPrefix(n.Names[0].Name, "wrong") && len(n.Values) > 0 {
			add(n.Values[0])
		}
	case *ast.KeyValueExpr:
		if name, ok := n.Key.(*ast.Ident); ok && name.Name == "Wrong" {
			add(n.Value)
		}
	case *ast.AssignStmt:
		if sel, ok := n.Lhs[0].(*ast.SelectorExpr); ok && sel.Sel.Name == "Wrong" {
			add(n.Rhs[0])
		}
	}
	return list
}
