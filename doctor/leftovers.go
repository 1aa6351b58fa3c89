package doctor

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/nslab/nslab/course"
)

// leftovers looks for what earlier runs below this run root have left. It touches nothing: that is `nslab clean`'s.
func leftovers(runRoot string) Result {
	r := Result{ID: "machine.leftovers", State: StateOK, Found: say("none below %s", runRoot)}
	over, kept, alive, err := course.Runs(runRoot)
	if err != nil {
		r.State, r.Found = StateNote, plain(err)
		return r
	}
	groups, err := course.Cgroups(course.IDPrefix(runRoot))
	if err != nil {
		r.State, r.Found = StateNote, plain(err)
		return r
	}
	// A group that is in the journal of a run goes with the run. One that no run knows must have lost its journal. The
	// doctors' own have journals of another kind, and have been cleaned up, or belong to one that is at work.
	groups = slices.DeleteFunc(groups, func(g string) bool {
		return strings.HasPrefix(filepath.Base(g), groupPrefix) || slices.ContainsFunc(slices.Concat(over, kept, alive), func(id string) bool {
			return strings.Contains(filepath.Base(g), "-"+id)
		})
	})
	switch {
	case len(over) > 0:
		r.State, r.Found = StateNote, say("interrupted runs below %s: %s", runRoot, strings.Join(over, ", "))
		r.Remedy = []Message{command("nslab clean")}
	case len(kept) > 0:
		r.State, r.Found = StateNote, say("kept on purpose (--keep) below %s: %s", runRoot, strings.Join(kept, ", "))
		r.Remedy = []Message{command("nslab clean")}
	}
	if len(groups) > 0 {
		if r.State == StateOK {
			r.Found = say("groups of no known run: %s", strings.Join(groups, ", "))
		} else {
			r.Found = say("%s; groups of no known run: %s", r.Found, strings.Join(groups, ", "))
		}
		r.State = StateNote
		r.Remedy = append(r.Remedy, command("rmdir "+strings.Join(groups, " ")))
	}
	return r
}
