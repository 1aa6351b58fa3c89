package course

import (
	"errors"
	"fmt"
	"regexp"
	"sync"
)

// stepID is the form of a step's id. It names the step's folder and is typed by learners.
var stepID = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`) })

// Verify tells what is wrong with the lab's description: lessons that do not fit its steps or each other. It is for the
// tests of who writes a lab.
func (l *Lab) Verify() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if l.Title.En == "" || l.Title.Zh == "" || l.Minutes <= 0 || len(l.Needs) == 0 {
		fail("the lab lacks a title, a time or its needs")
	}
	for _, lang := range []string{"en", "zh"} {
		le, err := lessonOf(l, lang)
		if err != nil {
			fail("%w", err)
			continue
		}
		if len(le.sections) != len(l.Steps) {
			fail("%s: %d sections for %d steps", lang, len(le.sections), len(l.Steps))
			continue
		}
		for i, s := range le.sections {
			step := l.Steps[i]
			if !stepID().MatchString(step.ID) {
				fail("step %q: not a name of lower-case letters, digits and hyphens", step.ID)
			}
			if s.id != step.ID {
				fail("%s: section %d is %s, step %d is %s", lang, i+1, s.id, i+1, step.ID)
			}
			if len(s.why) == 0 || s.title == "" {
				fail("%s: section %s does not say why", lang, s.id)
			}
			if (s.question == "") != (step.Answer == 0) || step.Answer > len(s.choices) || step.Answer > 0 && len(s.choices) < 2 {
				fail("%s: section %s: question %q with %d choices, answer %d", lang, s.id, s.question, len(s.choices), step.Answer)
			}
		}
	}
	return errors.Join(errs...)
}
