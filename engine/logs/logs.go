// Package logs keeps what a container printed, in the form of Docker's json-file driver, and reads it back.
//
// The log is a file of lines, each one a JSON object:
//
//	{"log":"hello\n","stream":"stdout","time":"2026-01-31T12:00:00.123456789Z"}
//
// A line of the container is a record. A line of more than 16 KiB becomes several records, of which the last one ends in
// "\n"; so does a last line that was never ended, whose record has no "\n". Text that is not UTF-8 cannot stand in JSON, and
// each bad byte becomes U+FFFD. What the container printed at once bears one time: that at which it was read.
//
// # Rotation
//
// With a size set, log.json becomes log.json.1 when it has reached it, log.json.1 becomes log.json.2, and the oldest is
// dropped. There is a log.json at every instant: the old one gets its second name by link(2), and is then replaced by
// rename(2). A reader knows files by inode number, so that it neither loses nor repeats a record when names move under it.
//
// # What can go wrong
//
// A writer that was killed leaves half a record at most. Readers pass over it, and the next writer cuts it off. A disk that
// is full must not stop the container: records are dropped, the file is cut back to its last whole record, and when there
// is room again a record on stderr tells how many lines are missing. Lines that are no records are passed over.
//
// One process writes a log at a time; that is the caller's to ensure. Any number may read it.
package logs

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/docker/go-units"
)

// The drivers that there are.
const (
	JSONFile = "json-file" // what this package is about, and the default
	None     = "none"      // nothing is kept
)

// Options say what is kept. The zero value keeps everything in one file.
type Options struct {
	MaxSize int64 // a file that has reached this many bytes is rotated; 0 or less: never
	MaxFile int   // how many files there may be, the one that is written included; 0 is 1
	None    bool  // keep nothing
}

// ParseOptions makes options of a driver's name, where "" is json-file, and of what --log-opt says.
func ParseOptions(driver string, opts map[string]string) (Options, error) {
	switch driver {
	case "", JSONFile:
	case None:
		for _, key := range sorted(opts) {
			return Options{}, fmt.Errorf("log option %s: the log driver %s has no options", key, None)
		}
		return Options{None: true}, nil
	default:
		return Options{}, fmt.Errorf("log driver %q: there are only %s and %s", driver, JSONFile, None)
	}
	o := Options{MaxSize: -1, MaxFile: 1}
	for _, key := range sorted(opts) {
		if err := o.set(key, opts[key]); err != nil {
			return Options{}, fmt.Errorf("log option %s=%s: %w", key, opts[key], err)
		}
	}
	if o.MaxFile > 1 && o.MaxSize <= 0 {
		// Docker takes it and does nothing. It is always a mistake, but one that works there, so it must here.
		o.MaxFile = 1
	}
	return o, nil
}

var (
	errSize  = errors.New("a size is needed, such as 10m, or -1 for no limit")
	errFiles = errors.New("a number of files is needed, at least 1")
)

func (o *Options) set(key, value string) error {
	switch key {
	case "max-size":
		if value == "-1" {
			return nil
		}
		// As Docker reads it: 10m is ten million bytes.
		size, err := units.FromHumanSize(value)
		if err != nil || size <= 0 {
			return errSize
		}
		o.MaxSize = size
	case "max-file":
		n, err := strconv.Atoi(value)
		if err != nil || n < 1 {
			return errFiles
		}
		o.MaxFile = n
	case "mode":
		if value != "blocking" {
			return errors.New("only blocking is possible: no line is dropped while there is room for it")
		}
	case "compress":
		compress, err := strconv.ParseBool(value)
		if err != nil {
			return errors.New("true or false is needed")
		}
		if compress {
			return errors.New("rotated files are not compressed")
		}
	default:
		return fmt.Errorf("the log driver %s has no such option; it has max-size and max-file", JSONFile)
	}
	return nil
}

func sorted(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
