package image

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/distribution/reference"
)

const someDigest = "sha256:7cc4b5aefd1d0cadf8d97d4350462ba51c694ebca145b08d7d41b41acc8db5aa"

var names = []string{
	"busybox", "busybox:v1", "library/busybox", "docker.io/busybox", "index.docker.io/busybox", "docker.io/library/a/b",
	"host:5000/a/b:v1", "localhost/x", "localhost", "[::1]:5000/x", "[fe80::1]/x", "a.b/c", "A/b", "Foo.com/bar", "foo/Bar",
	"a@" + someDigest, "a:b@" + someDigest, someDigest, someDigest[7:], "a__b", "a___b", "a..b", "a.-b", "a---b", "-a", "a-", "a/",
	"/a", "a//b", "", ":", "@", "a:", "a@", "a:b:c", "a@sha256:abc", "a b", "a\nb", "../../x", "a/../b", "äh", "a:ä",
	"a:" + strings.Repeat("t", 128), "a:" + strings.Repeat("t", 129), "a:.x", "a:-x", "a:_x", "http://a/b", "a.b", "host:x/a", "host:/a",
	"-host.com/a", "host-.com/a", "h..com/a", strings.Repeat("a/", 120) + "b", strings.Repeat("a/", 130) + "b", "a@sha512:" + strings.Repeat("0", 128),
}

// TestParseName compares our reading of names with the reference's.
func TestParseName(t *testing.T) {
	for _, s := range names {
		compareName(t, s)
	}
	r := rand.New(rand.NewPCG(1, 2))
	alphabet := []string{"a", "b", "A", "0", "9", ".", "_", "-", "/", ":", "@", "[", "]", "localhost", "docker.io", "library/", "host:5000/", someDigest, "sha256:", " ", "é"}
	for range 200_000 {
		var b strings.Builder
		for range r.IntN(9) {
			b.WriteString(alphabet[r.IntN(len(alphabet))])
		}
		compareName(t, b.String())
	}
}

func compareName(t *testing.T, s string) {
	t.Helper()
	want, wantErr := reference.ParseNormalizedNamed(s)
	got, err := ParseName(s)
	if d, ok := want.(reference.Digested); ok && d.Digest().Algorithm() != "sha256" {
		wantErr = errors.New("a digest that we do not compute")
	}
	if wantErr == nil && reference.Domain(want) == "" {
		wantErr = errors.New("a registry whose name cannot be one: the reference takes it for a part of the path")
	}
	if (err == nil) != (wantErr == nil) {
		t.Errorf("ParseName(%q) = %v; want %v", s, err, wantErr)
		return
	}
	if err != nil {
		if !errors.Is(err, ErrReference) {
			t.Errorf("ParseName(%q) = %v; want an ErrReference", s, err)
		}
		return
	}
	want = reference.TagNameOnly(want)
	short := got.String() == reference.FamiliarString(want) && got.Repository() == reference.FamiliarName(want)
	if reference.Domain(want) == "docker.io" && strings.HasPrefix(reference.Path(want), "localhost/") {
		short = got.String() == want.String() // the reference's short name would be another name
	}
	if !short || got.Domain != reference.Domain(want) || got.Path != reference.Path(want) {
		t.Errorf("ParseName(%q) = %+v (%s); want %s (%s)", s, got, got, want, reference.FamiliarString(want))
	}
	again, err := ParseName(got.String())
	if err != nil || again != got {
		t.Errorf("ParseName(%q) = %+v, %v; want what it was made of, %+v", got.String(), again, err, got)
	}
}
