package files

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/coursetest"
	rootfs "github.com/nslab/nslab/labs/04-rootfs"
)

//go:embed testdata/cases.txt
var casesText string

var (
	sourceTime = time.Unix(983682367, 0)
	baseTime   = time.Unix(1012615322, 0)
)

// oneCase is what stands in testdata/cases.txt below "== name".
type oneCase struct {
	name     string
	sections map[string][]string
}

func readCases(t *testing.T) (base []string, all []oneCase) {
	var section string
	for _, line := range strings.Split(casesText, "\n") {
		if name, ok := strings.CutPrefix(line, "== "); ok {
			all = append(all, oneCase{name, map[string][]string{}})
			section = "context"
			continue
		}
		if name, ok := strings.CutPrefix(line, "-- "); ok {
			section = name
			continue
		}
		if len(all) == 0 || section == "context" && (line == "" || strings.HasPrefix(line, "unlike")) {
			continue
		}
		c := all[len(all)-1]
		c.sections[section] = append(c.sections[section], line)
	}
	if all[0].name != "base" {
		t.Fatal("the first case is not the base")
	}
	for _, c := range all {
		for name, lines := range c.sections {
			for len(lines) > 0 && lines[len(lines)-1] == "" {
				lines = lines[:len(lines)-1]
			}
			c.sections[name] = lines
		}
	}
	return all[0].sections["context"], all[1:]
}

// must is for what a test has made itself.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func unescape(s string) string {
	return strings.NewReplacer("%20", " ", `\n`, "\n").Replace(s)
}

// makeTree makes files from their description: see testdata/cases.txt.
func makeTree(t *testing.T, dir string, lines []string, when time.Time) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
	var made []string
	for _, line := range lines {
		w := strings.SplitN(line, " ", 4)
		if len(w) < 2 {
			continue
		}
		p := filepath.Join(dir, unescape(w[1]))
		made = append(made, p)
		word := func(i int) string {
			if i < len(w) {
				return w[i]
			}
			return ""
		}
		mode := func() uint32 {
			m, err := strconv.ParseUint(word(2), 8, 32)
			must(t, err)
			return uint32(m)
		}
		switch w[0] {
		case "f":
			must(t, os.WriteFile(p, []byte(unescape(word(3))), 0o600))
			must(t, unix.Chmod(p, mode()))
		case "d":
			must(t, os.Mkdir(p, 0o700))
			must(t, unix.Chmod(p, mode()))
		case "l":
			must(t, os.Symlink(strings.SplitN(line, " ", 3)[2], p))
		case "h":
			must(t, os.Link(filepath.Join(dir, word(2)), p))
		case "p":
			must(t, unix.Mkfifo(p, 0o600))
			must(t, unix.Chmod(p, mode()))
		case "s":
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p, Net: "unix"})
			must(t, err)
			l.SetUnlinkOnClose(false)
			must(t, l.Close())
		case "x":
			must(t, unix.Setxattr(p, word(2), []byte(word(3)), 0))
		case "o":
			var uid, gid int
			_, err := fmt.Sscanf(word(2), "%d:%d", &uid, &gid)
			must(t, err)
			var st unix.Stat_t
			must(t, unix.Lstat(p, &st))
			must(t, unix.Lchown(p, uid, gid))
			if st.Mode&unix.S_IFMT != unix.S_IFLNK {
				must(t, unix.Chmod(p, st.Mode&0o7777))
			}
		case "z":
			n, err := strconv.ParseInt(word(2), 10, 64)
			must(t, err)
			must(t, os.WriteFile(p, nil, 0o644))
			must(t, unix.Chmod(p, 0o644))
			must(t, os.Truncate(p, n))
		case "a":
			must(t, os.WriteFile(p, archiveOf(t, word(2)), 0o644))
			must(t, unix.Chmod(p, 0o644))
		default:
			t.Fatalf("line %q", line)
		}
	}
	ts := unix.NsecToTimespec(when.UnixNano())
	slices.Reverse(made)
	for _, p := range append(made, dir) {
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// archiveOf makes the archive that the cases have. Two of the kinds Go reads and does not write: those were made by Python.
func archiveOf(t *testing.T, how string) []byte {
	t.Helper()
	var made = map[string]string{
		"bz2": "QlpoOTFBWSZTWW+nUdEAALB/gPGAAgBAAP+AIAAABuAlHgAECCAAkojRTwpoaDQAARSSM0Jk02o9Q0PUtX1lLPboXgBFJTQU3NqE94lFIk9qRczHGEQkhGbwyeG7XLEwBCvmJg3vJk18Gqc8qwKIeQMK9BUc4tvCFIoIokodXCfGQ2s9HLM3g9tmzYtgiH8XckU4UJBvp1HR",
		"xz":  "/Td6WFoAAATm1rRGAgAhARYAAAB0L+Wj4Cf/AIldADSbgd6V4XBV4z09JML49YwAuBoYIPUyZ3DNqNE8t9aU36b1GLOdU8p9/hQ1lJEuzbrJ8v7XkOz6Iq7N4nA/Q2Xr03DghAqHnyx94yDUaz/BilQcUv76rlU+kyRemVBpBo+zyMZdiSzIvxQij6RR4OJQSHdLg9SNxzPe0P57J4U5WYi19wxxi4AZAAAAANSql5gAgTEtAAGlAYBQAAC75QE2scRn+wIAAAAABFla",
	}
	if text, ok := made[how]; ok {
		b, err := base64.StdEncoding.DecodeString(text)
		must(t, err)
		return b
	}
	return compress(t, how, tarOf(t,
		tar.Header{Name: "in/", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 3, Gid: 4},
		tar.Header{Name: "in/a", Typeflag: tar.TypeReg, Mode: 0o640, Uid: 7, Gid: 8, Size: 1},
		tar.Header{Name: "in/l", Typeflag: tar.TypeSymlink, Linkname: "a", Uid: 7, Gid: 8},
	))
}

// tarOf makes a tar; files are full of the letter A.
func tarOf(t *testing.T, list ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range list {
		h.ModTime = sourceTime
		must(t, w.WriteHeader(&h))
		_, err := w.Write(bytes.Repeat([]byte("A"), int(h.Size)))
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

func compress(t *testing.T, how string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	switch how {
	case "tar":
		return data
	case "gz":
		w := gzip.NewWriter(&b)
		_, err := w.Write(data)
		must(t, err)
		must(t, w.Close())
	case "zst":
		w, err := zstd.NewWriter(&b)
		must(t, err)
		_, err = w.Write(data)
		must(t, err)
		must(t, w.Close())
	default:
		t.Fatal(how)
	}
	return b.Bytes()
}

// parseBuild reads the few forms of instructions that the cases have. The language is somebody else's.
func parseBuild(t *testing.T, lines []string) (list []Instruction) {
	t.Helper()
	workdir := "/"
	for len(lines) > 0 {
		line := lines[0]
		lines = lines[1:]
		if dir, ok := strings.CutPrefix(line, "WORKDIR "); ok {
			workdir = dir
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		in := Instruction{Add: word == "ADD", Workdir: workdir}
		var words []string
		if strings.HasPrefix(rest, "[") {
			must(t, json.Unmarshal([]byte(rest), &words))
		} else {
			words = strings.Fields(rest)
		}
		for len(words) > 0 && strings.HasPrefix(words[0], "--") {
			flag, value, _ := strings.Cut(words[0][2:], "=")
			words = words[1:]
			switch flag {
			case "chown":
				in.Chown = value
			case "chmod":
				in.Chmod = value
			case "exclude":
				in.Exclude = append(in.Exclude, value)
			case "parents":
				in.Parents = true
			case "unpack":
				is := value != "false"
				in.Unpack = &is
			case "from":
			default:
				t.Fatalf("flag %q", flag)
			}
		}
		in.Dest = words[len(words)-1]
		for _, w := range words[:len(words)-1] {
			end, ok := strings.CutPrefix(w, "<<")
			if !ok {
				in.Sources = append(in.Sources, w)
				continue
			}
			n := slices.Index(lines, end)
			in.Inline = append(in.Inline, Inline{end, []byte(strings.Join(append(lines[:n:n], ""), "\n"))})
			lines = lines[n+1:]
		}
		list = append(list, in)
	}
	return list
}

// listTree describes the files of a tree, by path.
func listTree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all, inodes := map[string]string{}, map[uint64]string{}
	must(t, filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		var st unix.Stat_t
		must(t, unix.Lstat(p, &st))
		mode, shown := fmt.Sprintf("%o %d:%d", st.Mode&0o7777, st.Uid, st.Gid), strings.ReplaceAll(rel, " ", "%20")
		when := ""
		if time.Unix(st.Mtim.Unix()).Equal(sourceTime) {
			when = " @src"
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			all[rel] = fmt.Sprintf("d %s %s", shown, mode)
		case unix.S_IFLNK:
			target, err := os.Readlink(p)
			must(t, err)
			all[rel] = fmt.Sprintf("l %s %s %d:%d", shown, target, st.Uid, st.Gid)
		case unix.S_IFIFO:
			all[rel] = fmt.Sprintf("p %s %s%s", shown, mode, when)
		case unix.S_IFSOCK:
			all[rel] = "s " + shown
		case unix.S_IFREG:
			if first, ok := inodes[st.Ino]; ok {
				all[rel] = fmt.Sprintf("h %s %s", shown, first)
				break
			}
			inodes[st.Ino] = rel
			all[rel] = fmt.Sprintf("f %s %s %s%s", shown, mode, textOf(t, p), when)
			if st.Size >= 1<<20 && st.Blocks == 0 {
				all[rel] = fmt.Sprintf("z %s %d %s%s", shown, st.Size, mode, when)
			}
			var value [100]byte
			if n, err := unix.Getxattr(p, "user.color", value[:]); err == nil {
				all[rel+"\x00"] = fmt.Sprintf("x %s user.color %s", shown, value[:n])
			}
		}
		return nil
	}))
	return all
}

// textOf is a file's content as a case writes it: of an archive, and of the build's own files, nothing.
func textOf(t *testing.T, p string) string {
	t.Helper()
	b, err := os.ReadFile(p)
	must(t, err)
	if name := filepath.Base(p); name == "Dockerfile" || name == ".dockerignore" || len(b) > 150 {
		return "-"
	}
	return strings.ReplaceAll(string(b), "\n", `\n`)
}

// changes are the files that differ, and those that are gone.
func changes(before, after map[string]string) (list []string) {
	for name, line := range after {
		if line != before[name] || strings.HasSuffix(line, "@src") {
			list = append(list, line)
		}
	}
	for name := range before {
		if after[name] == "" {
			list = append(list, "gone "+name)
		}
	}
	slices.Sort(list)
	return list
}

func openTree(t testing.TB, dir string) *rootfs.Tree {
	t.Helper()
	tree, err := rootfs.OpenTree(t.Context(), dir)
	must(t, err)
	t.Cleanup(func() { tree.Close() })
	return tree
}

func TestCases(t *testing.T) {
	coursetest.NeedRoot(t)
	base, all := readCases(t)
	if len(all) < 60 {
		t.Fatalf("only %d cases", len(all))
	}
	for _, c := range all {
		t.Run(c.name, func(t *testing.T) { c.run(t, base) })
	}
}

func (c *oneCase) run(t *testing.T, base []string) {
	dir := t.TempDir()
	image, folder, stage := filepath.Join(dir, "image"), filepath.Join(dir, "context"), filepath.Join(dir, "stage")
	makeTree(t, image, base, baseTime)
	makeTree(t, stage, c.sections["stage"], sourceTime)
	must(t, os.Mkdir(folder, 0o755))
	own := []string{"f Dockerfile 644 " + strings.Join(c.sections["build"], `\n`)}
	if ignore := c.sections["ignore"]; ignore != nil {
		own = append(own, "f .dockerignore 644 "+strings.Join(ignore, `\n`))
	}
	makeTree(t, folder, append(own, c.sections["context"]...), sourceTime)

	before := listTree(t, image)
	err := c.build(t, folder, stage, image)
	want := slices.DeleteFunc(slices.Clone(c.sections["want"]), func(s string) bool { return s == "" })
	if text, ok := strings.CutPrefix(want[0], "error "); ok {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Fatalf("error %v; want one with %q", err, text)
		}
		if strings.Contains(err.Error(), dir) {
			t.Errorf("error %v: it has a path of the host", err)
		}
		if got := changes(before, listTree(t, image)); len(got) > 0 && !strings.Contains(c.name, "link") {
			t.Errorf("an error, and changes: %q", got)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	if got := changes(before, listTree(t, image)); !slices.Equal(got, want) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// build carries out the instructions of the case, and asks for each one's digest before and after.
func (c *oneCase) build(t *testing.T, folder, stage, image string) error {
	context, err := Open(t.Context(), Options{Source: folder})
	must(t, err)
	defer context.Close()
	from := context.Root()
	if c.sections["stage"] != nil {
		from, err = NewRoot(t.Context(), openTree(t, stage))
		must(t, err)
		defer from.Close()
	}
	for _, in := range parseBuild(t, c.sections["build"]) {
		plan, err := in.Resolve(t.Context(), from)
		if err != nil {
			return err
		}
		defer plan.Close()
		first, err := plan.Digest(t.Context())
		if err != nil {
			return err
		}
		result, err := plan.Copy(t.Context(), openTree(t, image))
		if err != nil {
			return err
		}
		if result.Changed {
			t.Error("Changed is set, and nothing has")
		}
		if len(result.Lost) > 0 {
			t.Errorf("lost %v", result.Lost)
		}
		again, err := in.Resolve(t.Context(), from)
		must(t, err)
		defer again.Close()
		if second, err := again.Digest(t.Context()); err != nil || second != first {
			t.Errorf("digest %v, %v; the first was %v", second, err, first)
		}
	}
	return nil
}
