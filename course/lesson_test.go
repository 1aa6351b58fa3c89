package course

import (
	"reflect"
	"testing"
)

func TestParseLesson(t *testing.T) {
	le, err := parseLesson(`# 01 · pid: a title

An introduction, not shown.

## first-step: Do *this*

Why, in two
lines.

And more: ` + "`*args`" + `.

> **Pitfall:** mind
> the gap.

? What happens?
1. this
2. that

## second: Other

Why.
1. not a choice: nothing was asked
`)
	if err != nil {
		t.Fatal(err)
	}
	want := &lesson{title: "01 · pid: a title", sections: []section{
		{
			id: "first-step", title: "Do *this*",
			why:     []string{"Why, in two lines.", "And more: `*args`."},
			pitfall: "mind the gap.", question: "What happens?", choices: []string{"this", "that"},
		},
		{id: "second", title: "Other", why: []string{"Why. 1. not a choice: nothing was asked"}},
	}}
	if !reflect.DeepEqual(le, want) {
		t.Errorf("parseLesson() =\n%+v; want\n%+v", le, want)
	}
	if _, err := parseLesson("## no id here\n"); err == nil {
		t.Error("parseLesson() of a section without an id = nil; want an error")
	}
}
