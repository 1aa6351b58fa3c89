package logs

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var lines = map[string]string{
	"yes":   "y\n",
	"line":  strings.Repeat("The quick brown fox. ", 4)[:79] + "\n",
	"utf8":  strings.Repeat("\u4e16\u754c ", 20) + "\n",
	"color": strings.Repeat("\x1b[1mbold\x1b[0m ", 8) + "\n",
}

// BenchmarkEncode is why records are not written with encoding/json.
func BenchmarkEncode(b *testing.B) {
	for name, line := range lines {
		text := []byte(line[:len(line)-1])
		b.Run("own/"+name, func(b *testing.B) {
			b.SetBytes(int64(len(line)))
			b.ReportAllocs()
			var dst []byte
			tail := appendTail(nil, "stdout", noon)
			for b.Loop() {
				dst = append(dst[:0], opening...)
				dst = appendText(dst, text)
				dst = append(dst, '\\', 'n')
				dst = append(dst, tail...)
			}
		})
		b.Run("json/"+name, func(b *testing.B) {
			b.SetBytes(int64(len(line)))
			b.ReportAllocs()
			enc := json.NewEncoder(io.Discard)
			for b.Loop() {
				v := struct {
					Log    string    `json:"log"`
					Stream string    `json:"stream"`
					Time   time.Time `json:"time"`
				}{line, "stdout", noon}
				if err := enc.Encode(&v); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkWrite writes chunks of 64 KiB to a log of at most 64 MB.
func BenchmarkWrite(b *testing.B) {
	for name, line := range lines {
		b.Run(name, func(b *testing.B) {
			w, err := Create(filepath.Join(b.TempDir(), "log.json"), Options{MaxSize: 64 << 20, MaxFile: 1})
			if err != nil {
				b.Fatal(err)
			}
			defer w.Close()
			s := w.Stream("stdout")
			chunk := []byte(strings.Repeat(line, 65536/len(line)+1)[:65536])
			b.SetBytes(65536)
			b.ReportAllocs()
			for b.Loop() {
				s.Write(chunk)
			}
		})
	}
}

func BenchmarkRead(b *testing.B) {
	path := filepath.Join(b.TempDir(), "log.json")
	w := create(b, path, Options{})
	put(b, w.Stream("stdout"), strings.Repeat(lines["line"], 500000))
	for _, o := range []ReadOptions{{Tail: -1}, {Tail: -1, Timestamps: true}, {Tail: 10}, {Tail: -1, Since: noon.Add(time.Hour)}} {
		o.Stdout = true
		b.Run(fmt.Sprintf("tail=%d,timestamps=%v,since=%v", o.Tail, o.Timestamps, !o.Since.IsZero()), func(b *testing.B) {
			b.SetBytes(w.size)
			for b.Loop() {
				if err := Read(b.Context(), path, o, io.Discard, io.Discard); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
