package image

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/nslab/nslab/course"
)

// changes are what somebody does in a container before he commits it: he makes a file, deletes one of the image's, and writes
// to a volume.
const changes = "echo new > /app/test.txt; rm /app/stamp; echo data > /test/text.txt; echo '10.9.8.7 elsewhere' >> /etc/hosts"

// commit: the read-write layer becomes a layer of an image. The init layer and the volumes do not.
func commit(t *course.T) error {
	p, err := newApp(t)
	if err != nil {
		return err
	}
	if _, err := p.nslab(t.Context(), "container", "run", "--network", "none", "--name", "box", "--volume", "/test", appName, "sh", "-c", changes); err != nil {
		return err
	}
	if _, err := p.nslab(t.Context(), "container", "commit", "box", "changed"); err != nil {
		return err
	}
	before, err := p.look(appName)
	if err != nil {
		return err
	}
	after, err := p.look("changed")
	if err != nil {
		return err
	}
	common := len(before.Manifest.Layers)
	t.Equal(common+1, len(after.Manifest.Layers), "the new image has one layer more")
	t.Equal(shorts(chains(before)), shorts(chains(after)[:common]), "the others are the old ones")
	names, err := p.entries(after.Manifest.Layers[len(after.Manifest.Layers)-1])
	if err != nil {
		return err
	}
	t.See("the tar of the new layer: %s", strings.Join(names, " "))
	t.Check(slices.Contains(names, "app/test.txt"), "app/test.txt", names, "it has the new file")
	t.Check(slices.Contains(names, "app/.wh.stamp"), "app/.wh.stamp", names, "and a whiteout for the one that was deleted")
	t.Check(!slices.Contains(names, "etc/hosts"), "no etc/hosts", names, "not /etc/hosts: that is the init layer's, which is each container's own")
	t.Check(slices.Contains(names, "test/"), "test/", names, "the volume's mount point is there")
	content := slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "test/") && n != "test/" })
	t.Check(!content, "nothing below test/", names, "and empty: what was written to the volume went past the layer")

	volumes, err := filepath.Glob(filepath.Join(p.dir, "disk/root/volumes/*/_data"))
	if err != nil {
		return err
	}
	for _, v := range volumes {
		t.See("the volume has: %s", list(v))
	}
	t.Check(len(volumes) == 1 && list(volumes[0]) == "text.txt", "text.txt", volumes, "it is in the volume, on the host")
	said, err := p.nslab(t.Untraced(), "container", "run", "--rm", "--network", "none", "changed", "ls", "/app", "/test")
	if err != nil {
		return err
	}
	t.See("a container of the new image has in /app and /test: %s", strings.Join(strings.Fields(said), " "))
	t.Equal("/app: hello.sh test.txt /test:", strings.Join(strings.Fields(said), " "), "it has the one file, misses the other, and its /test is empty")
	return nil
}
