// Package diagnosis turns an errno into an explanation.
//
// EINVAL says nothing to a learner. A stage's typed error (a mount that failed, a group that could not be made) knows
// what the kernel requires for that call, so it can probe each precondition live and say which one does not hold.
// The stage only states the conditions; whoever shows the error prints them.
package diagnosis

import (
	"errors"
	"syscall"
)

// Condition is one thing the kernel requires for a call to succeed, and whether it held when it was probed.
type Condition struct {
	What   string `json:"what"`             // "the target is a mount point": fixed text, so that it can be translated
	Detail string `json:"detail,omitempty"` // what was found: "/tmp/box: ext4 /dev/vda"
	OK     bool   `json:"ok"`               // whether it holds now
	Remedy string `json:"remedy,omitempty"` // what to do where it does not
}

// Diagnoser is an error that can say why. Conditions probes the machine, changes nothing, and returns nil where the
// error tells everything already.
type Diagnoser interface {
	error
	Conditions() []Condition
}

// Of returns the conditions of the first error in err's tree that has any. Who has no descriptors or no memory left has no use for
// them: nothing that the call requires is missing, and to look takes what there is not.
func Of(err error) []Condition {
	for _, spent := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
		if errors.Is(err, spent) {
			return nil
		}
	}
	var d Diagnoser
	if errors.As(err, &d) {
		return d.Conditions()
	}
	return nil
}

// Remedy is what to do about the first condition that does not hold, "" where nothing is known to help.
func Remedy(err error) string {
	for _, c := range Of(err) {
		if !c.OK && c.Remedy != "" {
			return c.Remedy
		}
	}
	return ""
}

// Those are the conditions that apply: a probe returns nil for one that does not.
func Those(all ...*Condition) []Condition {
	var list []Condition
	for _, c := range all {
		if c != nil {
			list = append(list, *c)
		}
	}
	return list
}
