package format

import (
	"strings"

	"github.com/nslab/nslab/course"
)

// The columns of Docker's tables: at least ten wide, three spaces between them.
const (
	minColumn = 10
	gap       = 3
)

// align makes columns of what tabs separate, as text/tabwriter does, but counts a Chinese character as two. A column
// belongs to the lines, one below the other, that go on behind it: what stands last on a line widens nothing.
func align(text string) string {
	var lines [][]string
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		lines = append(lines, strings.Split(line, "\t"))
	}
	var out strings.Builder
	alignFrom(&out, lines, nil)
	return out.String()
}

// alignFrom prints lines of which the first columns have these widths; it finds out the next.
func alignFrom(out *strings.Builder, lines [][]string, widths []int) {
	column := len(widths)
	has := func(line []string) bool { return column < len(line)-1 }
	for len(lines) > 0 {
		n, width := 0, minColumn
		for n < len(lines) && has(lines[n]) {
			width = max(width, course.Width(lines[n][column])+gap)
			n++
		}
		if n > 0 {
			alignFrom(out, lines[:n], append(widths[:column:column], width))
			lines = lines[n:]
			continue
		}
		for i, cell := range lines[0] {
			if i < len(lines[0])-1 {
				cell = course.Pad(cell, widths[i])
			}
			out.WriteString(cell)
		}
		out.WriteByte('\n')
		lines = lines[1:]
	}
}
