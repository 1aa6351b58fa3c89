package logs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

var noon = time.Date(2026, 1, 31, 12, 0, 0, 120000000, time.UTC)

// create opens a log whose clock stands.
func create(t testing.TB, path string, o Options) *Writer {
	t.Helper()
	w, err := Create(path, o)
	if err != nil {
		t.Fatal(err)
	}
	w.now = func() time.Time { return noon }
	t.Cleanup(func() { w.Close() })
	return w
}

func put(t testing.TB, w io.Writer, texts ...string) {
	t.Helper()
	for _, s := range texts {
		if n, err := io.WriteString(w, s); n != len(s) || err != nil {
			t.Fatalf("write %d bytes: %d, %v", len(s), n, err)
		}
	}
}

func content(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// read is all of a log, both streams in one.
func read(t testing.TB, path string, o ReadOptions) string {
	t.Helper()
	var out bytes.Buffer
	if err := Read(t.Context(), path, o, &out, &out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

var all = ReadOptions{Stdout: true, Stderr: true, Tail: -1}

func TestForm(t *testing.T) {
	const end = `,"stream":"stdout","time":"2026-01-31T12:00:00.12Z"}` + "\n"
	long := strings.Repeat("x", maxText)
	for _, tt := range []struct{ name, in, want string }{
		{"line", "hello\n", `{"log":"hello\n"` + end},
		{"lines", "a\n\nb\n", `{"log":"a\n"` + end + `{"log":"\n"` + end + `{"log":"b\n"` + end},
		{"no end", "a\nb", `{"log":"a\n"` + end + `{"log":"b"` + end},
		{"terminal", "a\r\n", `{"log":"a\r\n"` + end},
		{"escapes", "\"\\\t\x00\x1b[1m\x7f/\n", `{"log":"\"\\\u0009\u0000\u001b[1m` + "\x7f" + `/\n"` + end},
		{"html", "<a&b>\n", `{"log":"\u003ca\u0026b\u003e\n"` + end},
		{"utf-8", "h\u00e9llo \u4e16\u754c \U0001f600\u2028\n", "{\"log\":\"h\u00e9llo \u4e16\u754c \U0001f600\\u2028\\n\"" + end},
		{"not utf-8", "a\xff\xc3\n", `{"log":"a\ufffd\ufffd\n"` + end},
		{"16 KiB", long + "\n", `{"log":"` + long + `\n"` + end},
		{"more than 16 KiB", long + "y\n", `{"log":"` + long + `"` + end + `{"log":"y\n"` + end},
		{"long, no end", long + long + "z", `{"log":"` + long + `"` + end + `{"log":"` + long + `"` + end + `{"log":"z"` + end},
	} {
		for _, step := range []int{1 << 20, 4096, 7, 1} {
			t.Run(fmt.Sprintf("%s/%d", tt.name, step), func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "log.json")
				w := create(t, path, Options{})
				s := w.Stream("stdout")
				for in := tt.in; in != ""; {
					n := min(step, len(in))
					put(t, s, in[:n])
					in = in[n:]
				}
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				if got := content(t, path); got != tt.want {
					t.Errorf("log of %.40q:\n%.400s\nwant\n%.400s", tt.in, got, tt.want)
				}
			})
		}
	}
}

// TestCharacterAcrossRecords: a character that lies where a line is cut must not become two bad ones.
func TestCharacterAcrossRecords(t *testing.T) {
	for _, c := range []string{"\u00e9", "\u4e16", "\U0001f600"} {
		for before := maxText - 5; before <= maxText+1; before++ {
			line := strings.Repeat("x", before) + c + c + c + c + "\n"
			path := filepath.Join(t.TempDir(), "log.json")
			w := create(t, path, Options{})
			s := w.Stream("stdout")
			put(t, s, line[:before+1], line[before+1:], line)
			w.Close()
			if got := read(t, path, all); got != line+line {
				t.Fatalf("%d bytes before %q: read %d bytes, want %d, the same", before, c, len(got), 2*len(line))
			}
		}
	}
}

// TestAgainstJSON: whatever is written, a JSON decoder reads back, and so do we.
func TestAgainstJSON(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	alphabet := []string{"a", "b", " ", "\n", "\r", "\"", "\\", "<", ">", "&", "\x00", "\x1f", "\x7f", "\x80", "\xff", "\xe4\xb8", "\u00e9", "\u2028", "\u2029", "\u4e16", "\U0001f600", "\ufffd", "plain text of some length", "u0041", "/"}
	path := filepath.Join(t.TempDir(), "log.json")
	w := create(t, path, Options{})
	s := w.Stream("stdout")
	var all bytes.Buffer
	for range 3000 {
		var b strings.Builder
		for range rnd.IntN(20) {
			b.WriteString(alphabet[rnd.IntN(len(alphabet))])
		}
		put(t, s, b.String())
		all.WriteString(b.String())
	}
	w.Close()
	want := strings.ToValidUTF8(each(all.Bytes()), "\ufffd")
	var got strings.Builder
	dec := json.NewDecoder(strings.NewReader(content(t, path)))
	for {
		var v struct{ Log, Stream, Time string }
		if err := dec.Decode(&v); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		got.WriteString(v.Log)
	}
	if got.String() != want {
		t.Errorf("encoding/json reads %d bytes, want %d: %.200q, want %.200q", got.Len(), len(want), got.String(), want)
	}
	if got := read(t, path, ReadOptions{Stdout: true, Tail: -1}); got != want {
		t.Errorf("Read reads %d bytes, want %d", len(got), len(want))
	}
}

// each makes every bad byte a bad character of its own, as strings.ToValidUTF8 does not.
func each(b []byte) string {
	var out strings.Builder
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		out.WriteRune(r)
		b = b[n:]
	}
	return out.String()
}

func TestParseOptions(t *testing.T) {
	for _, tt := range []struct {
		driver string
		opts   map[string]string
		want   Options
		err    string
	}{
		{"", nil, Options{MaxSize: -1, MaxFile: 1}, ""},
		{"json-file", map[string]string{"max-size": "10m", "max-file": "3"}, Options{MaxSize: 10e6, MaxFile: 3}, ""},
		{"json-file", map[string]string{"max-size": "-1"}, Options{MaxSize: -1, MaxFile: 1}, ""},
		{"json-file", map[string]string{"max-file": "3"}, Options{MaxSize: -1, MaxFile: 1}, ""},
		{"json-file", map[string]string{"mode": "blocking", "compress": "false"}, Options{MaxSize: -1, MaxFile: 1}, ""},
		{"none", nil, Options{None: true}, ""},
		{"none", map[string]string{"max-size": "1m"}, Options{}, "log option max-size: the log driver none has no options"},
		{"syslog", nil, Options{}, `log driver "syslog": there are only json-file and none`},
		{"", map[string]string{"max-size": "big"}, Options{}, "log option max-size=big: a size is needed, such as 10m, or -1 for no limit"},
		{"", map[string]string{"max-size": "0"}, Options{}, "log option max-size=0: a size is needed, such as 10m, or -1 for no limit"},
		{"", map[string]string{"max-size": "-5"}, Options{}, "log option max-size=-5: a size is needed, such as 10m, or -1 for no limit"},
		{"", map[string]string{"max-size": ""}, Options{}, "log option max-size=: a size is needed, such as 10m, or -1 for no limit"},
		{"", map[string]string{"max-size": "99999999999999999999g"}, Options{}, "log option max-size=99999999999999999999g: a size is needed, such as 10m, or -1 for no limit"},
		{"", map[string]string{"max-file": "0"}, Options{}, "log option max-file=0: a number of files is needed, at least 1"},
		{"", map[string]string{"max-file": "x"}, Options{}, "log option max-file=x: a number of files is needed, at least 1"},
		{"", map[string]string{"compress": "true"}, Options{}, "log option compress=true: rotated files are not compressed"},
		{"", map[string]string{"a": "1", "b": "2"}, Options{}, "log option a=1: the log driver json-file has no such option; it has max-size and max-file"},
	} {
		got, err := ParseOptions(tt.driver, tt.opts)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if got != tt.want || text != tt.err {
			t.Errorf("ParseOptions(%q, %v) = %+v, %q; want %+v, %q", tt.driver, tt.opts, got, text, tt.want, tt.err)
		}
	}
}

func TestParseTime(t *testing.T) {
	zone := time.FixedZone("east", 2*3600)
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, zone)
	for _, tt := range []struct {
		in   string
		want time.Time
	}{
		{"10m", now.Add(-10 * time.Minute)},
		{"1h30m", now.Add(-90 * time.Minute)},
		{"-10m", now.Add(10 * time.Minute)},
		{"0", time.Unix(0, 0)},
		{"1136073845", time.Unix(1136073845, 0)},
		{"1136073845.000000001", time.Unix(1136073845, 1)},
		{"1136073845.5", time.Unix(1136073845, 500000000)},
		{"-1", time.Unix(-1, 0)},
		{"2006-01-02T15:04:05Z", time.Date(2006, 1, 2, 15, 4, 5, 0, time.UTC)},
		{"2006-01-02t15:04:05z", time.Date(2006, 1, 2, 15, 4, 5, 0, time.UTC)},
		{"2006-01-02T15:04:05.999999999Z", time.Date(2006, 1, 2, 15, 4, 5, 999999999, time.UTC)},
		{"2006-01-02T15:04:05+07:00", time.Date(2006, 1, 2, 8, 4, 5, 0, time.UTC)},
		{"2006-01-02T15:04:05-07:00", time.Date(2006, 1, 2, 22, 4, 5, 0, time.UTC)},
		{"2006-01-02T15:04:05.5-07:00", time.Date(2006, 1, 2, 22, 4, 5, 500000000, time.UTC)},
		{"2006-01-02T15:04Z", time.Date(2006, 1, 2, 15, 4, 0, 0, time.UTC)},
		{"2006-01-02T15Z", time.Date(2006, 1, 2, 15, 0, 0, 0, time.UTC)},
		{"2006-01-02Z", time.Date(2006, 1, 2, 0, 0, 0, 0, time.UTC)},
		{"2006-01-02-07:00", time.Date(2006, 1, 2, 7, 0, 0, 0, time.UTC)},
		{"2006-01-02T15:04:05", time.Date(2006, 1, 2, 13, 4, 5, 0, time.UTC)},
		{"2006-01-02T15:04:05.25", time.Date(2006, 1, 2, 13, 4, 5, 250000000, time.UTC)},
		{"2006-01-02T15:04", time.Date(2006, 1, 2, 13, 4, 0, 0, time.UTC)},
		{"2006-01-02T15", time.Date(2006, 1, 2, 13, 0, 0, 0, time.UTC)},
		{"2006-01-02", time.Date(2006, 1, 1, 22, 0, 0, 0, time.UTC)},
	} {
		if got, err := ParseTime(tt.in, now); err != nil || !got.Equal(tt.want) {
			t.Errorf("ParseTime(%q) = %v, %v; want %v", tt.in, got, err, tt.want)
		}
	}
	for _, in := range []string{"", "yesterday", "2006-13-01", "10", "1.2.3", "1.", ".5", "1.1234567890", "+5", "2006-01-02T25:00:00Z", "\n"} {
		if got, err := ParseTime(in, now); err == nil && in != "10" {
			t.Errorf("ParseTime(%q) = %v; want an error", in, got)
		}
	}
}

func TestNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.json")
	w := create(t, path, Options{None: true})
	put(t, w.Stream("stdout"), "a\n", "b")
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("stat of a log that is not kept: %v", err)
	}
	if got := read(t, path, all); got != "" {
		t.Errorf("read %q", got)
	}
}

func TestCreateRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".", "link", "missing/log.json"} {
		if w, err := Create(filepath.Join(dir, name), Options{}); err == nil {
			w.Close()
			t.Errorf("Create(%s) succeeded", name)
		}
	}
}

// TestHalfRecord: what a writer that was killed leaves is passed over, and then cut off.
func TestHalfRecord(t *testing.T) {
	for _, half := range []string{`{"log":"b`, `{`, "\x00\x00\x00", strings.Repeat("x", 3*maxRecord(maxText))} {
		path := filepath.Join(t.TempDir(), "log.json")
		w := create(t, path, Options{})
		put(t, w.Stream("stdout"), "a\n")
		w.Close()
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		put(t, f, half)
		f.Close()
		if got := read(t, path, all); got != "a\n" {
			t.Errorf("read with half a record: %q", got)
		}
		w = create(t, path, Options{})
		put(t, w.Stream("stdout"), "c\n")
		w.Close()
		if got := read(t, path, all); got != "a\nc\n" {
			t.Errorf("read after half a record %.20q: %q", half, got)
		}
		for n, want := range []string{"", "c\n", "a\nc\n", "a\nc\n"} {
			o := all
			o.Tail = n
			if got := read(t, path, o); got != want {
				t.Errorf("tail %d after half a record %.20q: %q, want %q", n, half, got, want)
			}
		}
	}
}

func TestIdle(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.json")
	w := create(t, path, Options{})
	s := w.Stream("stdout")
	put(t, s, "a\nhalf ")
	w.Idle()
	put(t, s, "b\n")
	w.Idle()
	put(t, s, "c", "d\n")
	if got := read(t, path, all); got != "a\nhalf b\ncd\n" {
		t.Errorf("read %q", got)
	}
}

// TestNoGarbage: a monitor of two megabytes must not allocate for each line.
func TestNoGarbage(t *testing.T) {
	w := create(t, filepath.Join(t.TempDir(), "log.json"), Options{})
	s := w.Stream("stdout")
	text := []byte("a line of \"text\"\nand half of another")
	if n := testing.AllocsPerRun(100, func() { s.Write(text) }); n != 0 {
		t.Errorf("a write allocates %v times", n)
	}
}

func TestContextEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.json")
	w := create(t, path, Options{})
	put(t, w.Stream("stdout"), "a\n")
	ctx, cancel := context.WithCancel(t.Context())
	out := newWaiter()
	errs := make(chan error, 1)
	o := all
	o.Follow = true
	go func() { errs <- Read(ctx, path, o, out, out) }()
	out.wait(t, "a\n")
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("follow returned %v", err)
	}
}
