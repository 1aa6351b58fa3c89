package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/coursetest"
	"github.com/nslab/nslab/doctor"
	"github.com/nslab/nslab/labs"
)

// TestClaims runs each lab under strace(1): every call that a "Do" line names must be among those that the kernel was
// asked for, with the same strings, the same flags and the same answer, as often as it is named.
func TestClaims(t *testing.T) {
	coursetest.NeedRoot(t)
	strace, err := exec.LookPath("strace")
	if err != nil {
		coursetest.Missing(t, "strace")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range labs.All() {
		t.Run(l.Name(), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			runRoot := filepath.Join(dir, "run")
			if missing := doctor.Missing(l, runRoot); len(missing) > 0 {
				coursetest.Missing(t, fmt.Sprint(missing))
			}
			nslab := filepath.Join(dir, "nslab") // a program is what its name says, see TestMain
			if err := os.Symlink(self, nslab); err != nil {
				t.Fatal(err)
			}
			log := filepath.Join(dir, "calls")
			cmd := exec.Command(strace, "-f", "-qq", "-s", "4096", "-v", "-o", log, nslab, "run", l.Name(), "--auto", "--format", "json")
			cmd.Env = append(os.Environ(), "NSLAB_RUN_ROOT="+runRoot, "XDG_STATE_HOME="+dir+"/state")
			out, err := cmd.Output()
			if _, failed := err.(*exec.ExitError); err != nil && !failed { // a check may fail where everything is slow
				t.Fatal(err)
			}
			text, err := os.ReadFile(log)
			if err != nil {
				t.Fatal(err)
			}
			calls := straceCalls(string(text))
			claims := 0
			for line := range bytes.Lines(out) {
				var step struct {
					Step string
					Do   []string
				}
				if err := json.Unmarshal(line, &step); err != nil {
					t.Fatalf("%s: %v", line, err)
				}
				for _, do := range step.Do {
					claims++
					if !claimed(do, calls) {
						t.Errorf("step %s: strace knows no such call: %s", step.Step, do)
					}
				}
			}
			if claims == 0 {
				t.Errorf("no claims in %s", out)
			}
			t.Logf("%d claims among %d calls", claims, len(calls))
		})
	}
}

// straceCall is a line of strace's output, taken apart.
type straceCall struct {
	name, args, result string
	used               bool
}

var (
	straceLine = regexp.MustCompile(`^(\w+)\((.*)\) += (.*)$`)
	unfinished = regexp.MustCompile(`^(.*?) *<unfinished \.\.\.>\)?(?: += \?)?$`)
	resumed    = regexp.MustCompile(`^<\.\.\. \w+ resumed>,? ?(.*)$`)
)

// straceCalls parses the output of `strace -f -o`, whose lines begin with a thread's number. A call that another thread's
// line interrupts stands there in two pieces; one that never returns (its process was killed) has no result.
func straceCalls(text string) (calls []*straceCall) {
	begun := map[string]string{}
	for line := range strings.Lines(text) {
		thread, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		rest = strings.TrimLeft(rest, " ")
		if m := unfinished.FindStringSubmatch(rest); m != nil {
			begun[thread] = m[1]
			continue
		}
		if m := resumed.FindStringSubmatch(rest); m != nil {
			rest = begun[thread] + m[1]
			delete(begun, thread)
		}
		if m := straceLine.FindStringSubmatch(rest); m != nil {
			calls = append(calls, &straceCall{name: m[1], args: m[2], result: m[3]})
		}
	}
	return calls
}

// kernelNames are calls that reach the kernel under a newer name: the C library's wrapper keeps the old one.
var kernelNames = map[string][]string{
	"mkdir": {"mkdirat"}, "rmdir": {"unlinkat"}, "open": {"openat"}, "clone": {"clone", "clone3"},
	"symlink": {"symlinkat"}, "mknod": {"mknodat"}, "unlink": {"unlinkat"},
}

var (
	fileClaim  = regexp.MustCompile(`^write "?(.*?)"? → /\S+`)                                                      // write 20000 → FILE
	timesClaim = regexp.MustCompile(`^(\w+)\((.*)\) × (\d+)`)                                                       // write(7, …, 131072) × 16
	callClaim  = regexp.MustCompile(`^(?:fork, )?(\w+)\((.*?)\)(?: = [^→]*?)?(?:, [a-z][^→]*)?(?: → (.*?))?  \S+$`) // name(arguments) = result, more → error
	argument   = regexp.MustCompile(`"(?:[^"\\]|\\.)+"(?:\.\.\.)?|\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b|\bSIG[A-Z0-9]+\b`)
)

// claim is what a "Do" line says about a call.
type claim struct {
	names   []string // of the call, any of which will do
	args    []string // texts that strace must show among its arguments
	refusal string   // what strerror(3) says of its errno, "" for a call that was granted
	times   int
}

func parseClaim(do string) (claim, bool) {
	if m := fileClaim.FindStringSubmatch(do); m != nil {
		return claim{[]string{"write"}, []string{`"` + m[1]}, "", 1}, true // open-ended: the file's line has a newline
	}
	if m := timesClaim.FindStringSubmatch(do); m != nil {
		times, _ := strconv.Atoi(m[3])
		return claim{[]string{m[1]}, []string{m[2][max(0, strings.LastIndex(m[2], ", ")):]}, "", times}, true
	}
	m := callClaim.FindStringSubmatch(do)
	if m == nil {
		return claim{}, false
	}
	c := claim{[]string{m[1]}, argument.FindAllString(m[2], -1), m[3], 1}
	if kernel, ok := kernelNames[m[1]]; ok {
		c.names = kernel
	}
	for i, a := range c.args {
		if strings.HasSuffix(a, "...") || m[1] == "execve" {
			c.args[i] = strings.TrimRight(a, `."`)
		}
	}
	return c, true
}

// claimed looks for calls that fit a "Do" line and that no earlier line has taken.
func claimed(do string, calls []*straceCall) bool {
	want, ok := parseClaim(do)
	for _, c := range calls {
		if ok && want.times > 0 && !c.used && want.fits(c) {
			c.used = true
			want.times--
		}
	}
	return ok && want.times == 0
}

func (want claim) fits(c *straceCall) bool {
	if !slices.Contains(want.names, c.name) {
		return false
	}
	if c.name == "sendto" || c.name == "sendmsg" {
		want.args = onTheWire(want.args, c.args)
	}
	refused := strings.HasPrefix(c.result, "-1 ")
	switch {
	case want.refusal == "" && refused, want.refusal != "" && refused && !strings.Contains(strings.ToLower(c.result), "("+want.refusal+")"):
		return false
	case want.refusal != "" && !refused && c.name != "getcwd": // what getcwd says is granted, and its caller refuses it
		return false
	}
	args := c.args
	if c.name == "execve" { // "sleep 1000" stands for a program and its arguments
		args += strings.ReplaceAll(args, `", "`, " ")
	}
	return !slices.ContainsFunc(want.args, func(w string) bool { return !strings.Contains(args, w) })
}

// netlinkTypes are the numbers of netlink messages: in a network namespace that is not its own, strace cannot find out what kind
// of netlink socket it sees, and takes nothing apart.
var netlinkTypes = map[string]int{
	"RTM_NEWLINK": unix.RTM_NEWLINK, "RTM_DELLINK": unix.RTM_DELLINK, "RTM_SETLINK": unix.RTM_SETLINK, "RTM_GETLINK": unix.RTM_GETLINK,
	"RTM_NEWADDR": unix.RTM_NEWADDR, "RTM_NEWROUTE": unix.RTM_NEWROUTE, "RTM_GETROUTE": unix.RTM_GETROUTE,
	"NFT_MSG_NEWTABLE": nft | unix.NFT_MSG_NEWTABLE, "NFT_MSG_GETTABLE": nft | unix.NFT_MSG_GETTABLE, "NFT_MSG_DELTABLE": nft | unix.NFT_MSG_DELTABLE,
	"NFT_MSG_NEWCHAIN": nft | unix.NFT_MSG_NEWCHAIN, "NFT_MSG_GETCHAIN": nft | unix.NFT_MSG_GETCHAIN, "NFT_MSG_NEWRULE": nft | unix.NFT_MSG_NEWRULE,
	"NFT_MSG_NEWSETELEM": nft | unix.NFT_MSG_NEWSETELEM, "NFT_MSG_GETSETELEM": nft | unix.NFT_MSG_GETSETELEM, "NFT_MSG_DELSETELEM": nft | unix.NFT_MSG_DELSETELEM,
}

const nft = unix.NFNL_SUBSYS_NFTABLES << 8

// onTheWire is what strace shows of a claim about a netlink message: names as they are where it could take the message apart,
// and else numbers, and strings in hexadecimal.
func onTheWire(want []string, shown string) (list []string) {
	if !strings.Contains(shown, "/* NLMSG_??? */") {
		return want
	}
	for _, w := range want {
		if n, ok := netlinkTypes[w]; ok {
			w = fmt.Sprintf("nlmsg_type=%#x ", n)
		} else if text, err := strconv.Unquote(w); err == nil {
			w = ""
			for _, b := range []byte(text) {
				w += fmt.Sprintf(`\x%02x`, b)
			}
		}
		list = append(list, w)
	}
	return list
}

// TestClaimed proves that the comparison can fail.
func TestClaimed(t *testing.T) {
	const log = `8 sendto(6, [{nlmsg_len=84, nlmsg_type=0x10 /* NLMSG_??? */, nlmsg_flags=0}, "\x00\x62\x72\x00"], 84, 0) = 84
7 mount("proc", "/proc", "proc", MS_NOSUID|MS_NODEV, NULL <unfinished ...>
8 kill(3, SIGTERM)                      = 0
7 <... mount resumed>)                    = 0
8 openat(AT_FDCWD, "/f", O_WRONLY|O_CLOEXEC) = 5
8 write(5, "20000\n", 6)                  = 6
8 sethostname("mine", 4)                  = -1 EPERM (Operation not permitted)
8 execve("/bin/sleep", ["sleep", "9"], ["A=b"]) = 0
8 write(7, "..."..., 512)                 = 512
8 write(7, "..."..., 512)                 = 512
`
	for do, want := range map[string]bool{
		`mount("proc", "/proc", "proc", MS_NOSUID)  a.go:1`:               true,
		`mount("proc", "/proc", "proc", MS_NOEXEC)  a.go:1`:               false,
		`mount("proc", "/sys", "proc", MS_NOSUID)  a.go:1`:                false,
		`mount("proc", "/proc", "proc", MS_NOSUID) → file exists  a.go:1`: false,
		`kill(3, SIGTERM)  a.go:1`:                                        true,
		`kill(3, SIGKILL)  a.go:1`:                                        false,
		`write 20000 → /f  a.go:1`:                                        true,
		`write 100000 → /f  a.go:1`:                                       false,
		`sethostname("mine") → operation not permitted  a.go:1`:           true,
		`sethostname("mine") → invalid argument  a.go:1`:                  false,
		`sethostname("mine")  a.go:1`:                                     false,
		`fork, execve("sleep 9") = 12  a.go:1`:                            true,
		`fork, execve("sleep 8") = 12  a.go:1`:                            false,
		`write(7, …, 512) × 2  a.go:1`:                                    true,
		`write(7, …, 512) × 3  a.go:1`:                                    false,
		`unshare(CLONE_NEWNS)  a.go:1`:                                    false,
		`sendto(RTM_NEWLINK: ip link add "br")  a.go:1`:                   true,
		`sendto(RTM_NEWLINK: ip link add "bs")  a.go:1`:                   false,
		`sendto(RTM_NEWADDR: ip link add "br")  a.go:1`:                   false,
		`something in words  a.go:1`:                                      false,
	} {
		if got := claimed(do, straceCalls(log)); got != want {
			t.Errorf("claimed(%q) = %t; want %t", do, got, want)
		}
	}
	calls := straceCalls(log)
	first, second := claimed(`kill(3, SIGTERM)  a.go:1`, calls), claimed(`kill(3, SIGTERM)  a.go:1`, calls)
	if !first || second {
		t.Errorf("claiming one call twice: %t, %t; want true, false", first, second)
	}
}
