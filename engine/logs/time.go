package logs

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ParseTime reads the time of --since and --until as Docker does: a duration before now ("10m", "1h30m"), seconds since 1970
// with an optional fraction, a date, or a date and a time, with or without a zone. Without one it is in the zone of now.
func ParseTime(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil && s != "0" {
		return now.Add(-d), nil
	}
	if t, ok := parseUnix(s); ok {
		return t, nil
	}
	zoned := strings.ContainsAny(s, "zZ+") || strings.Count(s, "-") == 3
	for _, layout := range layouts(s) {
		var t time.Time
		var err error
		if zoned {
			t, err = time.Parse(layout+"Z07:00", strings.ToUpper(s))
		} else {
			t, err = time.ParseInLocation(layout, s, now.Location())
		}
		if err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("parse time %q: neither a time such as 2026-01-31T12:00:00Z, nor seconds since 1970, nor a duration such as 10m", s)
}

// layouts are the forms that s may have. time.Parse takes a fraction of a second where the layout has none.
func layouts(s string) []string {
	if !strings.ContainsAny(s, "tT") {
		return []string{"2006-01-02"}
	}
	return []string{"2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02T15"}
}

// parseUnix reads seconds, with up to nine digits of a fraction, exactly: a float64 is too short for today's nanoseconds.
func parseUnix(s string) (time.Time, bool) {
	whole, fraction, dotted := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || strings.HasPrefix(whole, "+") {
		return time.Time{}, false
	}
	if !dotted {
		return time.Unix(sec, 0), true
	}
	if len(fraction) == 0 || len(fraction) > 9 {
		return time.Time{}, false
	}
	nsec, err := strconv.ParseUint(fraction+strings.Repeat("0", 9-len(fraction)), 10, 32)
	if err != nil {
		return time.Time{}, false
	}
	return time.Unix(sec, int64(nsec)), true
}
