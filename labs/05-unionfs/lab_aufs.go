package unionfs

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
	"github.com/nslab/nslab/trace"
)

// branched mounts an aufs for the time of the step. Its server, where it has one, dies with the walkthrough.
func branched(t *course.T, d Driver, list []Branch, target string) (*Union, error) {
	runtime.LockOSThread() // the server dies with the thread that started it
	t.Cleanup(func(context.Context) error { runtime.UnlockOSThread(); return nil })
	u, err := MountBranches(WithServerDeath(t.Context()), d, list, target)
	if err == nil {
		t.Cleanup(unmounting(u))
	}
	return u, err
}

// aufsByName: branches with their modes, and where aufs tells about them.
func aufsByName(t *course.T) error {
	dir, err := bench(t)
	if err != nil {
		return err
	}
	d, ok := ourAufs(t)
	if !ok {
		return nil
	}
	// B and D both have a file that looks like a whiteout, of something in the branch below; only B's counts.
	if err := makeFiles(dir, "A/a", "B/b", "B/.wh.d", "D/d", "D/e", "D/.wh.f", "E/f", "C/"); err != nil {
		return err
	}
	option := fmt.Sprintf("br=%[1]s/A=rw:%[1]s/B=ro+wh:%[1]s/D=ro:%[1]s/E", dir) // where nothing is said, ro
	want := []Branch{{dir + "/A", RW}, {dir + "/B", ROWH}, {dir + "/D", RO}, {dir + "/E", RO}}
	branches, err := ParseBranches(option)
	if err != nil {
		return err
	}
	same, err := ParseBranches("dirs=" + strings.TrimPrefix(option, "br="))
	if err != nil {
		return err
	}
	t.Equal(branches, same, "br= and dirs= mean the same")
	u, err := branched(t, d, branches, dir+"/C")
	if err != nil {
		return err
	}
	got, err := u.Branches()
	if err != nil {
		return err
	}
	t.See("the option: %s", option)
	for i, b := range got {
		t.See("%s/br%s: %s", u.ID, str(i), b.String())
	}
	t.See("C shows: %s", list(dir+"/C"))
	t.Equal(want, got, "the listing names each branch with its mode, topmost first")
	t.Equal("a b e f", list(dir+"/C"), ".wh.d in the ro+wh branch hides d; .wh.f in the ro branch hides nothing")
	if err := write(t, dir+"/C/b", 0, "changed\n"); err != nil {
		return err
	}
	if err := unlink(t, dir+"/C/e"); err != nil {
		return err
	}
	t.See("A/b reads: %s · B/b reads: %s · A/.wh.e is %s", text(dir+"/A/b"), text(dir+"/B/b"), ls(dir+"/A/.wh.e"))
	t.Equal("of B / changed", text(dir+"/A/b"), "the change is in the rw branch")
	t.Equal("of B", text(dir+"/B/b"), "and not in the other")
	t.Equal("- 0", looks(dir+"/A/.wh.e"), "the whiteout is in the rw branch")
	t.Equal("of D", text(dir+"/D/e"), "over a file that is still there")
	return nil
}

// killed: the process that serves a file system dies.
func killed(t *course.T) error {
	dir, err := bench(t)
	if err != nil {
		return err
	}
	d, ok := ourAufs(t)
	if !ok || d != AufsFUSE {
		return nil // a kernel's aufs has no process that could die
	}
	if err := makeFiles(dir, "A/a", "B/b", "C/"); err != nil {
		return err
	}
	u, err := branched(t, d, []Branch{{dir + "/A", RW}, {dir + "/B", ROWH}}, dir+"/C")
	if err != nil {
		return err
	}
	if err := os.WriteFile(dir+"/C/new", []byte("written\n"), 0o644); err != nil {
		return err
	}
	t.See("process %s serves C, which shows: %s", str(u.Server), list(dir+"/C"))
	err = trace.Call(t.Context(), 0, func() string { return fmt.Sprintf("kill(%d, SIGKILL)", u.Server) },
		func() error { return unix.Kill(u.Server, unix.SIGKILL) })
	if err != nil {
		return err
	}
	// Gone, not only a zombie: its other threads may still hold the connection then, and a call that the kernel had
	// handed over is answered with ECONNABORTED.
	ended := t.Await(30*time.Second, func() bool { return !evidence.Exists(u.Server) })
	_, err = os.ReadDir(dir + "/C")
	t.See("reading C now: %s", said(err))
	t.Check(ended, "ended", "alive", "the server has ended")
	t.Equal("ENOTCONN", said(err), "nobody hangs: the kernel answers ENOTCONN")
	t.Equal("written", text(dir+"/A/new"), "what was written is in A, which is an ordinary folder")
	if err := u.Unmount(t.Context()); err != nil {
		return err
	}
	t.See("after the unmount C has: %s", list(dir+"/C"))
	t.Equal("–", list(dir+"/C"), "the dead mount could be taken away")
	return nil
}
