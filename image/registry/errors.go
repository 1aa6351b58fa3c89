package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// States that a caller may ask for with errors.Is.
var (
	// ErrUnreachable is a registry that does not answer.
	ErrUnreachable = errors.New("the registry cannot be reached")

	// ErrUnauthorized is something that not everybody may have, or do.
	ErrUnauthorized = errors.New("the registry wants a login, or another one")

	// ErrNotFound is a repository, a tag or a digest that the registry does not have.
	ErrNotFound = errors.New("the registry does not have it")

	// ErrPlain is a registry that has no TLS.
	ErrPlain = errors.New("the registry speaks plain HTTP")

	// ErrCertificate is a registry that cannot prove who it is.
	ErrCertificate = errors.New("the registry's certificate is not trusted")

	// ErrPlatform is an image that is not there for the platform that is wanted.
	ErrPlatform = errors.New("not for this platform")

	// ErrNoImage is something in a registry that is no image, or none that is understood.
	ErrNoImage = errors.New("no image that nslab understands")

	// ErrRedirects is a registry that sends its clients around in circles.
	ErrRedirects = fmt.Errorf("the registry sends us on more than %d times", maxRedirects)
)

// Error is what a registry said, or why it said nothing: one line, and one of the states above.
type Error struct {
	Host  string
	State error // nil: none of them
	Text  string
	Err   error // all of it
}

func (e *Error) Error() string { return e.Text }

// Unwrap gives the state and what is behind it.
func (e *Error) Unwrap() []error {
	if e.State == nil {
		return []error{e.Err}
	}
	return []error{e.State, e.Err}
}

// StallError is a server from which nothing comes any more.
type StallError struct {
	Host  string
	After time.Duration
}

func (e *StallError) Error() string { return fmt.Sprintf("nothing from %s for %s", e.Host, e.After) }

// Is makes it [ErrUnreachable].
func (e *StallError) Is(target error) bool { return target == ErrUnreachable }

// PlainError is a server that must be talked to without TLS, which is not allowed.
type PlainError struct{ Host string }

func (e *PlainError) Error() string {
	return e.Host + " has no TLS: anybody on the way could read and change what comes"
}

// Is makes it [ErrPlain].
func (e *PlainError) Is(target error) bool { return target == ErrPlain }

// explain makes one line of an error of the layers below, which name each request with its address, and the same thing several
// times.
func (c *Client) explain(ctx context.Context, host string, err error) error {
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil { // we were told to stop
		return cause
	}
	var done *Error
	if errors.As(err, &done) {
		return err
	}
	e := &Error{Host: host, Err: err}
	var (
		said      *transport.Error
		plain     *PlainError
		stalled   *StallError
		record    tls.RecordHeaderError
		dns       *net.DNSError
		op        *net.OpError
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
		errno     syscall.Errno
		request   *url.Error
	)
	// With and without TLS are two errors, of which that of the certificate says more.
	isPlain := errors.As(err, &record) || strings.Contains(err.Error(), "server gave HTTP response to HTTPS client")
	switch {
	case errors.As(err, &authority), errors.As(err, &name), errors.As(err, &invalid), errors.As(err, &verify):
		e.State, e.Text = ErrCertificate, fmt.Sprintf("the certificate of %s is not trusted: %s", host, certificate(err))
	case errors.As(err, &said):
		e.Text, e.State = answer(host, said)
	case errors.Is(err, ErrRedirects), strings.Contains(err.Error(), "stopped after 10 redirects"):
		e.State, e.Text = ErrRedirects, fmt.Sprintf("%s sends us on more than %d times", host, maxRedirects)
	case isPlain:
		e.State, e.Text = ErrPlain, (&PlainError{host}).Error()
	case errors.As(err, &plain):
		e.State, e.Text = ErrPlain, plain.Error()
	case errors.As(err, &stalled):
		e.State, e.Text = ErrUnreachable, stalled.Error()
	case errors.As(err, &dns):
		why := dns.Err
		if errors.As(err, &errno) { // without the address of a name server
			why = errno.Error()
		}
		e.State, e.Text = ErrUnreachable, fmt.Sprintf("look up %s: %s", dns.Name, why)
	case errors.As(err, &op) && op.Op == "dial" && errors.As(err, &errno):
		e.State, e.Text = ErrUnreachable, fmt.Sprintf("connect to %s: %v", host, errno)
	case errors.As(err, &op) && op.Op == "proxyconnect":
		e.State, e.Text = ErrUnreachable, fmt.Sprintf("connect to %s through the proxy: %v", host, op.Err)
	case errors.As(err, &op) && op.Timeout(), errors.Is(err, context.DeadlineExceeded):
		e.State, e.Text = ErrUnreachable, fmt.Sprintf("connect to %s: it does not answer", host)
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, net.ErrClosed):
		e.State, e.Text = ErrUnreachable, host+" hangs up"
	case errors.As(err, &request): // without the request, which everybody knows, and its address, which may hold a key
		e.Text = host + ": " + request.Err.Error()
	default:
		return err
	}
	return e
}

// certificate is why one is not trusted.
func certificate(err error) string {
	var verify *tls.CertificateVerificationError
	if errors.As(err, &verify) {
		err = verify.Err
	}
	return strings.TrimPrefix(err.Error(), "x509: ")
}

// answer reads what a registry says with an HTTP status.
func answer(host string, said *transport.Error) (text string, state error) {
	why := http.StatusText(said.StatusCode)
	if why == "" {
		why = fmt.Sprintf("status %d", said.StatusCode)
	}
	if len(said.Errors) > 0 {
		if m := said.Errors[0].Message; m != "" {
			why = m
		} else if c := string(said.Errors[0].Code); c != "" {
			why = c
		}
	}
	why = short(why)
	switch said.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Sprintf("%s says: %s", host, why), ErrUnauthorized
	case http.StatusNotFound:
		return fmt.Sprintf("not found: %s says: %s", host, why), ErrNotFound
	}
	return fmt.Sprintf("%s says: %s (status %d)", host, why, said.StatusCode), nil
}

// short is as much of a foreign text as fits into a line.
func short(s string) string {
	const most = 200
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// passes says whether it is worth trying again: the line was cut, or the server is busy. Nobody waits where no one is
// listening, and what is wrong stays wrong.
func passes(err error) bool {
	var said *transport.Error
	var stalled *StallError
	var op *net.OpError
	switch {
	case errors.As(err, &said):
		return said.StatusCode == http.StatusTooManyRequests || said.StatusCode == http.StatusRequestTimeout ||
			said.StatusCode >= 500 && said.StatusCode != http.StatusNotImplemented
	case errors.As(err, &stalled): // that was long enough
		return false
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return false
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return true
	case errors.As(err, &op):
		return op.Op != "dial" && op.Op != "proxyconnect"
	}
	return strings.Contains(err.Error(), "http2: ") || strings.Contains(err.Error(), "server closed idle connection")
}

// again tries something until it succeeds, or fails for good.
func (c *Client) again(ctx context.Context, f func() error) error {
	pause := c.o.Pause
	for n := 1; ; n++ {
		err := f()
		if err == nil || n == tries || !passes(err) {
			return err
		}
		if err := wait(ctx, pause); err != nil {
			return err
		}
		pause *= 2
	}
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
