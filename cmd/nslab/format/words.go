package format

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/docker/go-units"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/engine"
)

// Size is a size on disk, in powers of ten with three digits: 21.5MB.
func Size(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }

// SizePair is the size of a container: what it has written, and with its image's layers.
func SizePair(own, all int64) string {
	if all <= 0 {
		return Size(own)
	}
	return fmt.Sprintf("%s (virtual %s)", Size(own), Size(all))
}

// Bytes is a size in memory, in powers of two: 1.9GiB.
func Bytes(n uint64) string { return units.BytesSize(float64(n)) }

// Duration is about how long something takes or is ago: "About a minute".
func Duration(d time.Duration) string { return units.HumanDuration(d) }

// Ago is how long ago t was, seen from now. Nothing is known of the zero time.
func Ago(now, t time.Time) string {
	if t.IsZero() {
		return "N/A"
	}
	return Duration(now.Sub(t)) + " ago"
}

// Timestamp is a point in time as CREATED AT shows it.
func Timestamp(t time.Time) string { return time.Unix(t.Unix(), 0).String() }

// Status is what STATUS shows of a container: "Up 3 seconds", "Exited (0) 5 minutes ago".
func Status(now time.Time, s engine.State) string {
	up := "Up " + Duration(now.Sub(s.StartedAt))
	switch s.Status {
	case engine.Running:
		return up
	case engine.Paused:
		return up + " (Paused)"
	case engine.Removing:
		return "Removal In Progress"
	case engine.Dead:
		return "Dead"
	case engine.Created:
		return "Created"
	case engine.Exited:
		return fmt.Sprintf("Exited (%d) %s", s.ExitCode, Ago(now, s.FinishedAt))
	}
	return string(s.Status)
}

// shortID is how many digits of an id people see.
const shortID = 12

// ShortID is the beginning of an id, long enough for people and commands.
func ShortID(id string) string {
	if _, digits, ok := strings.Cut(id, ":"); ok { // sha256:…
		id = digits
	}
	return id[:min(len(id), shortID)]
}

// Ellipsis cuts s so that it takes no more than width columns of a terminal; the last of them shows that something is
// missing.
func Ellipsis(s string, width int) string {
	if course.Width(s) <= width {
		return s
	}
	if width <= 0 {
		return ""
	}
	end, taken := 0, 0
	for end < len(s) {
		r, size := utf8.DecodeRuneInString(s[end:])
		if taken += course.Width(string(r)); taken > width-1 {
			break
		}
		end += size
	}
	return s[:end] + "…"
}

// commandWidth is how much of a command COMMAND shows.
const commandWidth = 20

// Command is what COMMAND shows: the program and its arguments in quotes, which also keeps control characters from the
// terminal.
func Command(program string, args []string, trunc bool) string {
	command := program
	for _, arg := range args {
		if strings.Contains(arg, " ") {
			arg = "'" + arg + "'"
		}
		command += " " + arg
	}
	if trunc {
		command = Ellipsis(command, commandWidth)
	}
	return strconv.Quote(command)
}

// Labels are all labels, ordered by their names: a=b,c=d.
func Labels(labels map[string]string) string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		list = append(list, name+"="+labels[name])
	}
	return strings.Join(list, ",")
}
