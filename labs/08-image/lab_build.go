package image

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nslab/nslab/course"
)

// app is what the steps build: the shortest program that shows where its files and its environment come from.
func app() map[string]string {
	return map[string]string{
		"context/Dockerfile": `FROM base
WORKDIR /app
ADD . /app
RUN echo "built in a container" > stamp
EXPOSE 80
ENV NAME World
CMD ["sh", "hello.sh"]
`,
		"context/hello.sh":      "echo \"Hello $NAME\"\n",
		"context/.dockerignore": "Dockerfile\n.dockerignore\n",
	}
}

const appName = "hello"

// newApp makes a place with the program's sources, and the image of it.
func newApp(t *course.T) (place, error) {
	p, err := newPlace(t, "here", true)
	if err != nil {
		return p, err
	}
	if err := p.source(); err != nil {
		return p, err
	}
	_, err = p.nslab(t.Untraced(), "image", "build", "--quiet", "--network", "none", "--tag", appName, "context")
	return p, err
}

func (p place) source() error {
	for name, content := range app() {
		if err := p.write(name, content); err != nil {
			return err
		}
	}
	return nil
}

// dockerfile: each instruction is a line of the history, and some of them are a layer.
func dockerfile(t *course.T) error {
	p, err := newPlace(t, "here", true)
	if err != nil {
		return err
	}
	if err := p.source(); err != nil {
		return err
	}
	if _, err := p.nslab(t.Context(), "image", "build", "--network", "none", "--tag", appName, "context"); err != nil {
		return err
	}
	before, err := p.look(base)
	if err != nil {
		return err
	}
	i, err := p.look(appName)
	if err != nil {
		return err
	}
	layer := len(before.Manifest.Layers)
	var withLayer, without []string
	for _, h := range i.Config.History[len(before.Config.History):] {
		word := instruction(h.CreatedBy)
		if h.EmptyLayer {
			without = append(without, word)
			t.See("%s: no layer", word)
			continue
		}
		if layer >= len(i.Config.RootFS.DiffIDs) {
			break // the check below says so
		}
		folder := p.folder(i.chain(layer))
		t.See("%s: layer %s, in its folder: %s", word, short(i.chain(layer)), tree(folder))
		withLayer = append(withLayer, word+" "+tree(folder))
		layer++
	}
	t.Equal("WORKDIR app/; ADD app/ app/hello.sh; RUN app/ app/stamp", strings.Join(withLayer, "; "), "each instruction that changes files has a layer with what it changed")
	t.Equal("EXPOSE ENV CMD", strings.Join(without, " "), "one that only says something has none")
	t.Equal(len(i.Config.RootFS.DiffIDs), layer, "the history and the list of layers fit together")
	t.See("in the config: Env %s · ExposedPorts %s · WorkingDir %s · Cmd %s", strings.Join(i.Config.Config.Env, " "), ports(i), i.Config.Config.WorkingDir, strings.Join(i.Config.Config.Cmd, " "))
	t.Check(slices.Contains(i.Config.Config.Env, "NAME=World"), "NAME=World", i.Config.Config.Env, "what they said is in the config")
	return nil
}

// instruction is the first word of the Dockerfile's line that made a part of an image. Docker's older builder notes the shell
// that it used, too.
func instruction(createdBy string) string {
	word, _, _ := strings.Cut(strings.TrimPrefix(createdBy, "/bin/sh -c #(nop) "), " ")
	return word
}

func ports(i *picture) string {
	var list []string
	for port := range i.Config.Config.ExposedPorts {
		list = append(list, port)
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

// tree lists a small folder with all that is below it; folders end with a slash.
func tree(dir string) string {
	var names []string
	matches, _ := filepath.Glob(filepath.Join(dir, "*"))
	below, _ := filepath.Glob(filepath.Join(dir, "*/*"))
	for _, path := range append(matches, below...) {
		name := strings.TrimPrefix(path, dir+"/")
		if isFolder(path) {
			name += "/"
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return "–"
	}
	return strings.Join(names, " ")
}

// runs: the image knows how it is to be started.
func runs(t *course.T) error {
	p, err := newApp(t)
	if err != nil {
		return err
	}
	said, err := p.nslab(t.Context(), "container", "run", "--rm", "--network", "none", appName)
	if err != nil {
		return err
	}
	t.See("without a command it says: %s", said)
	t.Equal("Hello World", said, "it ran CMD, in WORKDIR, with ENV")
	said, err = p.nslab(t.Context(), "container", "run", "--rm", "--network", "none", "--env", "NAME=kernel", appName)
	if err != nil {
		return err
	}
	t.See("with another NAME: %s", said)
	t.Equal("Hello kernel", said, "who starts it may say otherwise")
	said, err = p.nslab(t.Context(), "container", "run", "--rm", "--network", "none", appName, "cat", "stamp")
	if err != nil {
		return err
	}
	t.Equal("built in a container", said, "and RUN has run in a container of the layers below, and left its file")
	return nil
}

// cache: what has been built from the same things is not built again.
func cache(t *course.T) error {
	p, err := newApp(t)
	if err != nil {
		return err
	}
	first, err := p.look(appName)
	if err != nil {
		return err
	}
	files := list(filepath.Join(p.store(), "blobs/sha256"))
	if _, err := p.nslab(t.Context(), "image", "build", "--network", "none", "--tag", appName, "context"); err != nil {
		return err
	}
	again, err := p.look(appName)
	if err != nil {
		return err
	}
	t.See("built again: image %s, before %s", short(again.id()), short(first.id()))
	t.Equal(first.id(), again.id(), "the second build comes to the same image")
	t.Equal(files, list(filepath.Join(p.store(), "blobs/sha256")), "and writes not one file to the store")

	if err := p.write("context/hello.sh", "echo \"Good morning $NAME\"\n"); err != nil {
		return err
	}
	if _, err := p.nslab(t.Context(), "image", "build", "--network", "none", "--tag", appName, "context"); err != nil {
		return err
	}
	changed, err := p.look(appName)
	if err != nil {
		return err
	}
	same := 0
	for n := range first.Config.RootFS.DiffIDs {
		if n < len(changed.Config.RootFS.DiffIDs) && changed.chain(n) == first.chain(n) {
			same++
		}
	}
	total := len(first.Config.RootFS.DiffIDs)
	t.See("hello.sh changed, built again: %d of %d layers as before, from below", same, total)
	t.Check(changed.id() != first.id(), "another than "+short(first.id()), short(changed.id()), "another file, another image")
	t.Equal(total-2, same, "what stands before ADD in the Dockerfile is as before; ADD and what comes after it was made anew")
	return nil
}

// shared: what two images have in common is there once.
func shared(t *course.T) error {
	p, err := newApp(t)
	if err != nil {
		return err
	}
	if err := p.write("second/Dockerfile", fmt.Sprintf("FROM %s\nENV NAME Moon\nRUN echo more > /more\n", appName)); err != nil {
		return err
	}
	if _, err := p.nslab(t.Context(), "image", "build", "--network", "none", "--tag", "second", "second"); err != nil {
		return err
	}
	one, err := p.look(appName)
	if err != nil {
		return err
	}
	two, err := p.look("second")
	if err != nil {
		return err
	}
	common := len(one.Config.RootFS.DiffIDs)
	t.See("%s: layers %s", appName, shorts(chains(one)))
	t.See("second: layers %s", shorts(chains(two)))
	t.Equal(shorts(chains(one)), shorts(chains(two)[:common]), "the second image has all layers of the first, and one more")
	sum, onDisk := size(p, one)+size(p, two), folderSize(p.layers())
	t.See("bytes in their files: %d and %d; in the folder of layers: %d", size(p, one), size(p, two), onDisk)
	t.Check(onDisk < sum-size(p, one)/2, fmt.Sprintf("far less than %d", sum), onDisk, "on the disk the shared layers are there once")
	return nil
}

func chains(i *picture) []string {
	var list []string
	for n := range i.Config.RootFS.DiffIDs {
		list = append(list, i.chain(n))
	}
	return list
}

func size(p place, i *picture) (sum int64) {
	for _, chain := range chains(i) {
		sum += folderSize(p.folder(chain))
	}
	return sum
}
