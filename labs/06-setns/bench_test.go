package setns

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

func BenchmarkStart(b *testing.B) {
	cfg := Config{Path: "/bin/true", Args: []string{"true"}, Env: os.Environ(), Pdeathsig: syscall.SIGKILL}
	for b.Loop() {
		p, err := Start(b.Context(), cfg)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := p.Wait(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkExec(b *testing.B) {
	for b.Loop() {
		if err := exec.Command("/bin/true").Run(); err != nil {
			b.Fatal(err)
		}
	}
}
