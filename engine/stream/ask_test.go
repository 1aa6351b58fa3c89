package stream

import (
	"errors"
	"testing"
)

func TestAsk(t *testing.T) {
	var heard []string
	knows := newContainer(t, Config{Ask: func(word string) error {
		heard = append(heard, word)
		if word != "known" {
			return errors.New("nobody knows it")
		}
		return nil
	}})
	older := newContainer(t, Config{}) // of an nslab that has nothing to ask for
	ask := func(c *container, word string) error {
		t.Helper()
		conn, err := Dial(c.path)
		if err != nil {
			t.Fatal(err)
		}
		return Ask(conn, word)
	}
	for _, c := range []*container{knows, older} {
		if err := c.hub.Listen(c.path); err != nil {
			t.Fatal(err)
		}
		c.hub.Start()
	}
	if err := ask(knows, "known"); err != nil {
		t.Errorf("ask for what is known: %v", err)
	}
	var refused *RemoteError
	if err := ask(knows, "other"); !errors.As(err, &refused) || refused.Text != "nobody knows it" {
		t.Errorf("ask for what is not known: %v; want what the monitor says", err)
	}
	if err := ask(older, "known"); !errors.Is(err, ErrGone) {
		t.Errorf("ask a monitor that knows nothing: %v; want ErrGone", err)
	}
	if len(heard) != 2 || heard[0] != "known" || heard[1] != "other" {
		t.Errorf("the monitor heard %q", heard)
	}
}
