// Command attack is the program of hostile containers. The tests put it into an image, and look from outside at what it did
// to the machine.
//
//	attack calls            system calls that no container may make
//	attack open PATH…       opens files for writing, and closes them again
//	attack devices          makes every device of the machine, and opens it
//	attack descriptors      looks for open files of the host
//	attack cwd              looks for a working folder outside of the root
//	attack handles          opens files by their handles, as the exploit "shocker" did
//	attack terminal         types into the terminal that its descriptors lead to
//	attack process PID…     looks into a process of the host: memory, root, files, ptrace
//	attack spy FILE [shared] looks into each process that appears, until FILE is there: CVE-2016-9962
//	attack overwrite FILE   opens what each process executes for writing, until FILE is there: CVE-2019-5736
//	attack compat           makes calls through the tables of 32-bit programs
//	attack keyring NAME     looks for a key of the caller's session
//	attack swap DIR LINK    exchanges a folder and a link to LINK, without end: CVE-2021-30465
//
// Each attempt is a line, "held" with the kernel's answer or "BROKEN". The exit status is 1 if something was broken, and 2 if
// nothing was attempted. Nothing is written anywhere: that a file could be opened is enough.
package main

import (
	"fmt"
	"os"
	"runtime"
)

// attacks are the first arguments.
var attacks = map[string]func(args []string){
	"calls":       func([]string) { calls() },
	"compat":      func([]string) { compat() },
	"open":        openForWriting,
	"devices":     func([]string) { devices() },
	"descriptors": func([]string) { descriptors() },
	"cwd":         func([]string) { cwd() },
	"handles":     func([]string) { handles() },
	"terminal":    func([]string) { terminal() },
	"process":     intoProcesses,
	"spy":         spy,
	"overwrite":   overwrite,
	"keyring":     keyring,
	"swap":        swap,
}

var held, broken int

// result notes one attempt.
func result(what string, err error) {
	if err != nil {
		held++
		fmt.Printf("held   %s: %v\n", what, err)
		return
	}
	breaks(what, "it was allowed")
}

func breaks(what, how string) {
	broken++
	fmt.Printf("BROKEN %s: %s\n", what, how)
}

// holds notes an attempt that came to nothing without an error.
func holds(what, why string) {
	held++
	fmt.Printf("held   %s: %s\n", what, why)
}

func main() {
	runtime.LockOSThread()
	if len(os.Args) < 2 || attacks[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "attack: what?")
		os.Exit(2)
	}
	attacks[os.Args[1]](os.Args[2:])
	switch {
	case broken > 0:
		os.Exit(1)
	case held == 0:
		fmt.Println("nothing was attempted")
		os.Exit(2)
	}
}
