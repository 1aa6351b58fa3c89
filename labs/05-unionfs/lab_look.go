package unionfs

import (
	"os"

	"github.com/nslab/nslab/course"
)

// seenAsOne: the classic experiment. Two folders, one view.
func seenAsOne(t *course.T) error {
	dir, err := classic(t.Context(), t)
	if err != nil {
		return err
	}
	t.See("A has: %s · B has: %s · C shows: %s", list(dir+"/A"), list(dir+"/B"), list(dir+"/C"))
	t.See("C/x reads: %s", text(dir+"/C/x"))
	t.Equal("a b x", list(dir+"/C"), "C has the files of both, and x once")
	t.Equal(text(dir+"/A/x"), text(dir+"/C/x"), "x is that of A, the upper folder")
	if err := do(t, `open("C/new", O_WRONLY|O_CREAT), write`, func() error { return os.WriteFile(dir+"/C/new", []byte("made in C\n"), 0o644) }); err != nil {
		return err
	}
	t.See("after a file is made in C: A has %s · B has %s", list(dir+"/A"), list(dir+"/B"))
	t.Equal("a new x", list(dir+"/A"), "it lies in A")
	t.Equal("b x", list(dir+"/B"), "and not in B")
	return nil
}

// copyUp: a file of the lower folder is copied before its first change.
func copyUp(t *course.T) error {
	dir, err := classic(t.Untraced(), t)
	if err != nil {
		return err
	}
	a, b, c := dir+"/A/b", dir+"/B/b", dir+"/C/b"
	lower := identity(b)
	t.See("before: B/b is inode %s; A/b: %s", lower, identity(a))
	t.Equal("ENOENT", identity(a), "the upper folder has no b at first")
	if err := do(t, `open("C/b", O_WRONLY|O_APPEND), write`, func() error { return appendTo(c, "changed in C") }); err != nil {
		return err
	}
	t.See("B/b: inode %s, reads: %s", identity(b), text(b))
	t.See("A/b: inode %s, reads: %s", identity(a), text(a))
	t.See("C/b reads: %s", text(c))
	t.Equal(lower, identity(b), "the lower file is the same inode")
	t.Equal("of B", text(b), "and has the same content")
	t.Equal("of B / changed in C", text(a), "the upper folder has a whole copy, with the change")
	t.Check(identity(a) != lower, "another inode than "+lower, identity(a), "the copy is another file")
	t.Equal(text(a), text(c), "the union shows the copy")
	return nil
}
