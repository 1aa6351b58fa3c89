package stream

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// askLimit is for how long an answer is waited for: what is asked for takes milliseconds, and a monitor that hangs is not to
// take the client with it.
const askLimit = 10 * time.Second

// Ask lets the monitor at the other end of a connection do something that has nothing to do with streams: it is the one process
// that stays, and this is where it listens. The connection is closed. A monitor that does not know the word, or is of an nslab
// that knew none, hangs up, which is [ErrGone].
func Ask(conn *os.File, word string) error {
	conn, err := pollable(conn)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(askLimit))
	if _, err := conn.Write(frame(frameAsk, []byte(word)...)); err != nil {
		return askError(err)
	}
	var d decoder
	buf, answered, refusal := make([]byte, 4096), false, ""
	for !answered {
		n, err := conn.Read(buf)
		if err != nil {
			return askError(err)
		}
		err = d.decode(buf[:n], func(kind byte, payload []byte) error {
			if kind == frameAsk {
				answered, refusal = true, string(payload)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if refusal != "" {
		return &RemoteError{Text: refusal}
	}
	return nil
}

func askError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return ErrGone
	}
	return fmt.Errorf("ask the monitor: %w", err)
}
