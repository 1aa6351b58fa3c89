package pages

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// resident counts the pages of b that take memory: mincore(2).
func resident(t *testing.T, b []byte) (n int) {
	t.Helper()
	page := os.Getpagesize()
	vec := make([]byte, (len(b)+page-1)/page)
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), uintptr(unsafe.Pointer(&vec[0])))
	if errno != 0 {
		t.Fatal("mincore:", errno)
	}
	for _, v := range vec {
		n += int(v & 1)
	}
	return n
}

func TestBuffer(t *testing.T) {
	var b Buffer
	b.Release() // nothing yet
	size := 16 * os.Getpagesize()
	mem := b.Get(size)
	if n := resident(t, mem); n != 0 {
		t.Errorf("a new buffer takes %d pages", n)
	}
	for round := range 3 {
		mem := b.Get(size)
		mem[0], mem[size-1] = 1, 2
		if n := resident(t, mem); n != 2 {
			t.Errorf("round %d: two pages written take %d", round, n)
		}
		if again := b.Get(size / 2); &again[0] != &mem[0] || again[0] != 1 {
			t.Errorf("round %d: what was written is %d", round, again[0])
		}
		b.Release()
		if n := resident(t, mem); n != 0 {
			t.Errorf("round %d: a released buffer takes %d pages", round, n)
		}
		if mem[0] != 0 {
			t.Errorf("round %d: a released buffer holds %d", round, mem[0])
		}
		b.Release()
	}
}

const settleEnv = "NSLAB_PAGES_TEST_SETTLE"

func TestMain(m *testing.M) {
	if os.Getenv(settleEnv) != "" {
		os.Stdout.WriteString("ready\n")
		b := make([]byte, 8)
		os.Stdin.Read(b)
		Settle()
		os.Stdout.WriteString("settled\n")
		os.Stdin.Read(b)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestSettle looks at a process from outside, before and after. It works as before.
func TestSettle(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), settleEnv+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	say := func() {
		b := make([]byte, 64)
		if _, err := out.Read(b); err != nil {
			t.Fatal(err)
		}
	}
	say()
	before := fileRSS(t, cmd.Process.Pid)
	in.Write([]byte("go\n"))
	say()
	after := fileRSS(t, cmd.Process.Pid)
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error("the process after settling:", err)
	}
	t.Logf("mapped from files: %d kB, then %d kB", before, after)
	if after >= before {
		t.Errorf("mapped from files: %d kB, then %d kB", before, after)
	}
}

// fileRSS is how much of a process's memory is mapped from files, in kilobytes.
func fileRSS(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "RssFile:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
