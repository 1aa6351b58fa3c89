package monitor

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/nslab/nslab/engine/network"
	"github.com/nslab/nslab/engine/resolver"
	stage "github.com/nslab/nslab/labs/09-network"
)

// What a monitor has to do with networks: it holds the ports of the host and answers for names, as long as the container runs; and at
// the end it gives everything back, so that nothing of a container leads to nowhere.

// networks tells whoever started us where the container's namespaces are, and takes the sockets for what is to come.
func (m *monitor) networks(ctx context.Context, o *Outline) (err error) {
	if o.Resolver {
		m.names, err = resolver.Listen(ctx, fmt.Sprintf("/proc/%d/ns/net", m.c.Pid))
		if err != nil {
			return errors.Join(err, m.c.Abort(context.WithoutCancel(ctx)))
		}
	}
	if o.Connected {
		m.report(Report{Born: m.c.Pid})
	}
	return nil
}

// relay serves what arrives at the host's ports in spite of the kernel's rules, and the container's questions for names.
func (m *monitor) relay() {
	if m.Networks == nil {
		return
	}
	m.naming.Lock()
	if m.names != nil {
		m.serveNames()
	}
	m.naming.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	m.unrelay = cancel
	for i, r := range m.Networks.Relays {
		if i >= len(m.held) {
			break
		}
		if h, err := stage.HeldFile(r.Proto, m.held[i]); err == nil {
			m.relays.Go(func() { h.Relay(ctx, r.Target) })
		}
	}
}

// Resolve is what a monitor is asked to do for a container that runs and gets its first network with names: to answer for them
// from now on.
const Resolve = "resolve"

// ask does what a client wants. There is one word.
func (m *monitor) ask(word string) error {
	m.naming.Lock()
	defer m.naming.Unlock()
	switch {
	case word != Resolve:
		return fmt.Errorf("nobody knows what %q is", word)
	case m.Networks == nil:
		return errors.New("the container was started without a network")
	case m.names != nil:
		return nil
	}
	names, err := resolver.Listen(context.Background(), fmt.Sprintf("/proc/%d/ns/net", m.c.Pid))
	if err != nil {
		return err
	}
	m.names = names
	return m.serveNames()
}

func (m *monitor) serveNames() error {
	return m.names.Serve(resolver.Lookup{Root: m.Networks.Root, RunRoot: m.Networks.RunRoot, RunDir: m.RunDir})
}

// drop gives the host's ports back: before anybody hears of the end, or who starts the container again would find them taken.
func (m *monitor) drop() {
	if m.unrelay != nil {
		m.unrelay()
		m.relays.Wait()
	}
	for _, f := range m.held {
		f.Close()
	}
	m.held = nil
}

// disconnect gives back what the container has of networks, whatever it is by now.
func (m *monitor) disconnect(ctx context.Context) error {
	if m.Networks == nil {
		return nil
	}
	defer m.drop()
	b, err := network.LoadSandbox(m.RunDir)
	if err != nil || b == nil {
		return err
	}
	// Whoever shares the network namespace keeps it alive. The container's links go all the same: others will get its addresses.
	shared, _ := filepath.Glob(filepath.Join(m.RunDir, network.SharedPrefix+"*"))
	store := network.Open(m.Networks.Root, m.Networks.RunRoot, nil)
	return store.Detach(ctx, b, m.RunDir, len(shared) > 0)
}
