package unionfs

import (
	"os"
	"os/exec"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestInUserNamespace runs the tests of overlay again as an ordinary user, who is root only in a user namespace.
func TestInUserNamespace(t *testing.T) {
	if os.Getenv("NSLAB_INSIDE") != "" {
		t.Skip("this is the inner run")
	}
	const tests = "TestOnC|TestWays|TestManyLayers|TestRefused|TestUpperInUse|TestOneLower|TestUserForms"
	cmd := exec.Command("/proc/self/exe", "-test.run", "^("+tests+")$", "-test.v")
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), "NSLAB_INSIDE=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestUserForms") {
		t.Errorf("in a user namespace: %v\n%s", err, out)
	}
}

// TestUserForms: in a user namespace the marks that the kernel writes are those that we read, and the other way round.
func TestUserForms(t *testing.T) {
	ctx, dir := own(t)
	form := OverlayForm
	if os.Getenv("NSLAB_INSIDE") != "" {
		form = OverlayUserForm
	}
	l, c := onC(t, dir)
	tree(t, l.Lower[0], map[string]string{"folder/old": ""})
	u, err := Mount(ctx, Overlay, l, c)
	must(t, err)
	must(t, os.Remove(c+"/b"))
	must(t, os.RemoveAll(c+"/folder"))
	must(t, os.Mkdir(c+"/folder", 0o755))
	must(t, u.Unmount(ctx))
	marks, err := Marks(l.Upper, form)
	if want := []Mark{{Path: "b"}, {Path: "folder", Opaque: true}}; err != nil || !reflect.DeepEqual(marks, want) {
		t.Errorf("Marks = %v, %v; want %v", marks, err, want)
	}
	must(t, Convert(ctx, l.Upper, form, AufsForm))
	must(t, Convert(ctx, l.Upper, AufsForm, form))
	must(t, os.RemoveAll(l.Work))
	must(t, os.Mkdir(l.Work, 0o755))
	u, err = Mount(ctx, Overlay, l, c)
	must(t, err)
	if got := strings.Join(append(names(t, c), names(t, c+"/folder")...), " "); got != "a folder x" {
		t.Errorf("after two conversions the union has %q; want a, folder, x and nothing in folder", got)
	}
	must(t, u.Unmount(ctx))
}
