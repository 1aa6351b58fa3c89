package unionfs

import (
	"errors"
	"os"

	"github.com/nslab/nslab/course"
)

// whiteout: a file of the lower folder is deleted in the union, in the form of each driver.
func whiteout(t *course.T) error {
	dir, err := classic(t.Untraced(), t)
	if err != nil {
		return err
	}
	if err := do(t, `unlink("C/b")`, func() error { return os.Remove(dir + "/C/b") }); err != nil {
		return err
	}
	t.See("C has: %s · A has: %s · B has: %s", list(dir+"/C"), list(dir+"/A"), list(dir+"/B"))
	t.See("A/b is now: %s", ls(dir+"/A/b"))
	t.Equal("a x", list(dir+"/C"), "b is gone from the union")
	t.Equal("of B", text(dir+"/B/b"), "the lower folder still has it")
	t.Equal("c 0,0", looks(dir+"/A/b"), "the upper folder has a character device 0/0 of that name")
	if err := do(t, `unlink("C/x")`, func() error { return os.Remove(dir + "/C/x") }); err != nil {
		return err
	}
	t.See("x lay in both: C has %s; A/x is %s", list(dir+"/C"), ls(dir+"/A/x"))
	t.Equal("c 0,0", looks(dir+"/A/x"), "instead of the upper x there is a mark too, or the lower one would come back")
	return whiteoutOfAufs(t, dir)
}

// whiteoutOfAufs does the same with aufs, on the same lower folder.
func whiteoutOfAufs(t *course.T, dir string) error {
	d, ok := ourAufs(t)
	if !ok {
		return nil
	}
	if err := makeFiles(dir, "A2/", "C2/"); err != nil {
		return err
	}
	l := Layers{Lower: []string{dir + "/B"}, Upper: dir + "/A2"}
	if _, err := branched(t, d, branchesOf(l), dir+"/C2"); err != nil {
		return err
	}
	if err := do(t, `unlink("C2/b")`, func() error { return os.Remove(dir + "/C2/b") }); err != nil {
		return err
	}
	t.See("with aufs: C2 has %s · A2/.wh.b is %s", list(dir+"/C2"), ls(dir+"/A2/.wh.b"))
	t.Equal("x", list(dir+"/C2"), "b is gone from the union of aufs")
	t.Equal("- 0", looks(dir+"/A2/.wh.b"), "its mark is an empty file called .wh.b")
	return nil
}

// opaque: a folder that is deleted and made anew must not show what the old one held.
func opaque(t *course.T) error {
	dir, err := classic(t.Untraced(), t, "B/folder/old")
	if err != nil {
		return err
	}
	folder := dir + "/C/folder"
	if err := do(t, `rm -r C/folder`, func() error { return os.RemoveAll(folder) }); err != nil {
		return err
	}
	t.See("after the deletion: A/folder is %s", ls(dir+"/A/folder"))
	t.Equal("c 0,0", looks(dir+"/A/folder"), "one whiteout hides the whole folder")
	err = do(t, `mkdir("C/folder"), write C/folder/new`, func() error {
		return errors.Join(os.Mkdir(folder, 0o755), os.WriteFile(folder+"/new", nil, 0o644))
	})
	if err != nil {
		return err
	}
	name := overlayForm(t).attribute("opaque")
	value, _, err := attribute(dir+"/A/folder", name)
	if err != nil {
		return err
	}
	t.See("A/folder is %s, with the attribute %s = %s", ls(dir+"/A/folder"), name, value)
	t.See("C/folder has: %s · A/folder has: %s · B/folder has: %s", list(folder), list(dir+"/A/folder"), list(dir+"/B/folder"))
	t.Equal("new", list(folder), "the new folder shows only what is new")
	t.Equal("old", list(dir+"/B/folder"), "the lower folder still has the old file")
	t.Equal("y", value, "the attribute on the upper folder is what hides it")
	return opaqueOfOCI(t, dir)
}

// opaqueOfOCI writes the upper folder as an image layer, and unpacks that.
func opaqueOfOCI(t *course.T, dir string) error {
	marks, err := Marks(dir+"/A", overlayForm(t))
	if err != nil {
		return err
	}
	if err := unpackLayer(t.Untraced(), dir+"/A", dir+"/A2", overlayForm(t)); err != nil {
		return err
	}
	unpacked, err := Marks(dir+"/A2", AufsForm)
	if err != nil {
		return err
	}
	t.See("A as an image layer, unpacked as it is: A2/folder has %s", list(dir+"/A2/folder"))
	t.Equal(".wh..wh..opq new", list(dir+"/A2/folder"), "there, and in aufs, the mark is a file, .wh..wh..opq")
	t.Equal(markNames(marks), markNames(unpacked), "both forms take away the same")
	return nil
}
