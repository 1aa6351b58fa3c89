package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/jstemmer/go-junit-report/v2/junit"

	xml "github.com/nslab/nslab/suite/junit"
)

// writeJUnit writes what became of the machines as JUnit has it: a machine is a suite. What speaks against the machine
// itself is a case of its own, or a machine that panicked after its last scenario would show nothing but passes.
func writeJUnit(name string, machines []*Outcome) (err error) {
	all := junit.Testsuites{}
	for _, o := range machines {
		all.AddSuite(o.junit())
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return all.WriteXML(f)
}

func (o *Outcome) junit() junit.Testsuite {
	suite := junit.Testsuite{Name: "vm " + o.Mode + ", Linux " + o.Kernel, Time: fmt.Sprintf("%.3f", o.Took.Seconds())}
	add := func(name string, ms int64, failure *junit.Result) {
		suite.AddTestcase(junit.Testcase{Name: name, Classname: "vm." + o.Mode, Time: fmt.Sprintf("%.3f", float64(ms)/1000), Failure: failure})
	}
	for _, r := range o.Results {
		switch r.Result {
		case "pass":
			add(r.Script, r.MS, nil)
		case "fail":
			add(r.Script, r.MS, xml.Failure("failed", r.Output))
		default:
			add(r.Script, r.MS, xml.Failure("needs "+strings.Join(r.Needs, ", "), ""))
		}
	}
	for _, name := range o.never() {
		add(name, 0, xml.Failure("never came to a result", ""))
	}
	var machine *junit.Result
	if problems := o.problems(); len(problems) > 0 {
		machine = xml.Failure("the machine failed", strings.Join(problems, "\n"))
	}
	add("machine", o.Took.Milliseconds(), machine)
	return suite
}
