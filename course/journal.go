package course

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// journal is the list of what a run made outside its own namespaces: one JSON line is on disk *before* a thing exists
// and another once it is gone. So whoever finds the file after a SIGKILL knows everything there may be to undo, and
// undoing twice does no harm.
type journal struct {
	file *os.File
	last int
}

// entry is one thing that may exist.
type entry struct {
	ID   int    `json:"id"`
	Lab  string `json:"lab,omitempty"`
	Kind string `json:"kind,omitempty"`
	Path string `json:"path,omitempty"`
	Done bool   `json:"done,omitempty"`
}

// openJournal appends to the journal at path.
func openJournal(path string) (*journal, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	entries, whole, err := readJournal(f)
	if err == nil {
		err = f.Truncate(whole) // the next line must not be glued to one that was cut off
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	j := &journal{file: f}
	for _, e := range entries {
		j.last = max(j.last, e.ID)
	}
	return j, nil
}

func (j *journal) begin(lab, kind, path string) (int, error) {
	j.last++
	return j.last, j.write(entry{ID: j.last, Lab: lab, Kind: kind, Path: path})
}

func (j *journal) end(id int) error { return j.write(entry{ID: id, Done: true}) }

func (j *journal) write(e entry) error {
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode journal entry: %w", err)
	}
	if _, err := j.file.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("sync journal: %w", err)
	}
	return nil
}

func (j *journal) Close() error { return j.file.Close() }

// pending reads what is not known to be undone, newest first: the order in which to undo it.
func (j *journal) pending() ([]entry, error) {
	if _, err := j.file.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	all, _, err := readJournal(j.file)
	if err != nil {
		return nil, err
	}
	open := map[int]entry{}
	for _, e := range all {
		if e.Done {
			delete(open, e.ID)
		} else {
			open[e.ID] = e
		}
	}
	var list []entry
	for _, e := range open {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b entry) int { return b.ID - a.ID })
	return list, nil
}

// readJournal reads whole lines, and tells how many bytes they are. A last line without its end was cut off by a kill
// while it was written: what it was to announce was never made.
func readJournal(r io.Reader) (list []entry, whole int64, err error) {
	lines := bufio.NewReader(r)
	for n := 1; ; n++ {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return list, whole, nil
		}
		if err != nil {
			return nil, 0, fmt.Errorf("read journal: %w", err)
		}
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, 0, fmt.Errorf("read journal: line %d: %w", n, err)
		}
		list, whole = append(list, e), whole+int64(len(line))
	}
}
