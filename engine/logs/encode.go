package logs

import (
	"encoding/binary"
	"time"
	"unicode/utf8"
)

// encoding/json is not used to write. An ordinary line takes it thirteen times as long, and two allocations
// (BenchmarkEncode): the container waits for the one, and a process of two megabytes notices the other. The form of the text is Docker's, byte for byte: like encoding/json it escapes <, > and &.

const (
	opening = `{"log":"`
	// maxText is how much of a line one record holds, as in Docker.
	maxText = 16 << 10
	// maxTail bounds what follows the text: the stream's name and the time.
	maxTail = 128
)

// appendTail appends what follows the text in each record of a stream at a time.
func appendTail(dst []byte, stream string, now time.Time) []byte {
	dst = append(dst, `","stream":"`...)
	dst = append(dst, stream...)
	dst = append(dst, `","time":"`...)
	dst = now.UTC().AppendFormat(dst, time.RFC3339Nano)
	return append(dst, "\"}\n"...)
}

// maxRecord is the most that a record of n bytes can take: every byte may become the six of a \u00XX.
func maxRecord(n int) int { return len(opening) + 6*n + len(`\n`) + maxTail }

const hex = "0123456789abcdef"

// appendText appends text as the inside of a JSON string.
func appendText(dst, text []byte) []byte {
	done := 0 // what is before is in dst
	for i := 0; ; {
		if i += plain(text[i:]); i == len(text) {
			return append(dst, text[done:]...)
		}
		size := 1
		if c := text[i]; c < utf8.RuneSelf {
			dst = appendEscape(append(dst, text[done:i]...), c)
		} else {
			var r rune
			r, size = utf8.DecodeRune(text[i:])
			switch {
			case r == utf8.RuneError && size == 1:
				dst = append(append(dst, text[done:i]...), `\ufffd`...)
			case r == '\u2028' || r == '\u2029':
				// Line ends in JavaScript, though not in JSON.
				dst = append(append(dst, text[done:i]...), '\\', 'u', '2', '0', '2', hex[r&0xf])
			default:
				i += size
				continue
			}
		}
		i += size
		done = i
	}
}

func appendEscape(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	}
	return append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&0xf])
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// plain returns how many bytes at the start of text stand for themselves in a JSON string, all of them ASCII. It looks at
// eight at a time: a container that prints a gigabyte waits for this loop.
func plain(text []byte) int {
	i := 0
	for ; i+8 <= len(text); i += 8 {
		x := binary.LittleEndian.Uint64(text[i:])
		m := x | (x - 0x20*ones)              // above 0x7f, or below a space
		m |= zero((x | 0x04*ones) ^ '&'*ones) // & and ", which differ in that bit
		m |= zero((x | 0x02*ones) ^ '>'*ones) // > and <
		m |= zero(x ^ '\\'*ones)
		if m&highs != 0 {
			break
		}
	}
	for ; i < len(text); i++ {
		switch c := text[i]; {
		case c < ' ', c >= utf8.RuneSelf, c == '"', c == '\\', c == '<', c == '>', c == '&':
			return i
		}
	}
	return i
}

// zero sets the high bit of every byte that is zero, and maybe of bytes above one that is.
func zero(x uint64) uint64 { return (x - ones) &^ x }

// cut returns where to cut a line that goes on after text with the byte next: at the end of text, or before the
// character that lies across it.
func cut(text []byte, next byte) int {
	if utf8.RuneStart(next) {
		return len(text)
	}
	for n := len(text) - 1; n > 0 && n > len(text)-utf8.UTFMax; n-- {
		if utf8.RuneStart(text[n]) {
			if !utf8.FullRune(text[n:]) {
				return n
			}
			break
		}
	}
	return len(text)
}
