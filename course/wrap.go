package course

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/rivo/uniseg"
)

// Width is the number of terminal columns that s takes: two for a Chinese character, none for a combining mark.
func Width(s string) int { return uniseg.StringWidth(s) }

// Wrap breaks s into lines of at most limit columns: between words, and between Chinese characters but never before their
// closing punctuation. A word that is longer than a line (a path, a set of flags) is broken where Unicode allows it
// (UAX #14: after a slash, a bar), and what has no such place is cut.
func Wrap(s string, limit int) []string {
	limit = max(limit, 8)
	s = strings.ReplaceAll(s, " %", "\u00a0%") // a number and its percent sign stay together
	var lines []string
	var line string
	for _, piece := range pieces(s, limit) {
		for Width(strings.TrimRight(line+piece, " \n")) > limit {
			if line != "" {
				lines = append(lines, strings.TrimRight(line, " "))
				line = ""
				continue
			}
			var head string
			head, piece = cut(piece, limit)
			lines = append(lines, head)
		}
		line += piece
		if strings.HasSuffix(piece, "\n") {
			lines = append(lines, strings.TrimRight(line, " \n"))
			line = ""
		}
	}
	if line = strings.TrimRight(line, " \n"); line != "" || len(lines) == 0 {
		lines = append(lines, line)
	}
	for i := range lines {
		lines[i] = strings.ReplaceAll(lines[i], "\u00a0", " ")
	}
	return lines
}

// pieces cuts s at the places where it may be broken. After a space that is always so, even before a slash, where Unicode
// forbids it (LB13): here a slash begins a path. Those inside a word count only if the word does not fit on a line.
func pieces(s string, limit int) (list []string) {
	for word := range strings.SplitAfterSeq(s, " ") {
		whole := Width(strings.TrimRight(word, " ")) <= limit
		piece, state := "", -1
		for word != "" {
			var segment string
			segment, word, _, state = uniseg.FirstLineSegmentInString(word, state)
			if piece != "" && !(whole && narrow(piece, segment)) {
				list, piece = append(list, piece), ""
			}
			piece += segment
		}
		list = append(list, piece)
	}
	return list
}

// narrow says whether there is no Chinese character at the seam of a and b.
func narrow(a, b string) bool {
	last, _ := utf8.DecodeLastRuneInString(a)
	first, _ := utf8.DecodeRuneInString(b)
	return last != '\n' && Width(string(last)) == 1 && Width(string(first)) == 1
}

// cut splits s after as many characters as fit.
func cut(s string, limit int) (head, rest string) {
	g := uniseg.NewGraphemes(s)
	for g.Next() {
		from, to := g.Positions()
		if from > 0 && Width(s[:to]) > limit {
			return s[:from], s[from:]
		}
	}
	return s, ""
}

// Pad fills s with spaces on the right up to n columns.
func Pad(s string, n int) string {
	return s + strings.Repeat(" ", max(0, n-Width(s)))
}

// spaced says whether a space belongs between a and b when they are put on one line.
func spaced(a, b string) bool {
	last, _ := utf8.DecodeLastRuneInString(a)
	first, _ := utf8.DecodeRuneInString(b)
	wideLast, wideFirst := Width(string(last)) == 2, Width(string(first)) == 2
	punctuation := wideLast && unicode.IsPunct(last) || wideFirst && unicode.IsPunct(first)
	return !punctuation && !(wideLast && wideFirst)
}
