package filter

import (
	"errors"
	"strings"
	"testing"
)

func filters(t *testing.T, args ...string) (f Filters) {
	t.Helper()
	for _, arg := range args {
		if err := f.Set(arg); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestMatch(t *testing.T) {
	f := filters(t, "name=web", "name=^db-[0-9]$", "name=(", "ID =abc", "label=a", "label=b=2", "", "label=c=x=y")
	for name, want := range map[string]bool{"web": true, "my-web-1": true, "db-1": true, "db-12": false, "(": true, "x": false} {
		if got := f.Match("name", name); got != want {
			t.Errorf("Match(name, %q) = %v; want %v", name, got, want)
		}
	}
	if !f.Prefix("id", "abcdef") || f.Prefix("id", "bcdef") || !f.Exact("id", "abc") || f.Exact("id", "abcd") {
		t.Error("the key ID, written with capitals and a blank, does not compare")
	}
	if !f.Match("none", "x") || !f.Prefix("none", "x") || !f.Exact("none", "x") || f.Has("none") || len(f.Get("none")) > 0 {
		t.Error("a key without a filter does not match all")
	}
	all := map[string]string{"a": "1", "b": "2", "c": "x=y"}
	if !f.Labels("label", all) || !f.Labels("none", nil) {
		t.Error("labels that are all there do not match")
	}
	for _, change := range []map[string]string{{"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "x=y"}, nil} {
		if f.Labels("label", change) {
			t.Errorf("%v matches %s", change, f.String())
		}
	}
	if got := f.String(); got != "id=abc label=a label=b=2 label=c=x=y name=web name=^db-[0-9]$ name=(" {
		t.Errorf("String() = %s", got)
	}
}

func TestCheck(t *testing.T) {
	f := filters(t, "name=x", "foo\n=y")
	var wrong *Error
	err := f.Check("name", "label")
	if !errors.As(err, &wrong) || err.Error() != `invalid filter 'foo'` || len(wrong.Known) != 2 {
		t.Errorf("Check: %v", err)
	}
	if err := f.Check("name", "foo"); err != nil {
		t.Errorf("Check with all keys: %v", err)
	}
	if err := new(Filters).Set("x"); err == nil || err.Error() != "bad format of filter (expected name=value)" {
		t.Errorf("without a value: %v", err)
	}
	f = filters(t, "status=exited", "status=gone\nfor good")
	if err := f.OneOf("status", "exited"); err == nil ||
		err.Error() != `invalid filter 'status=gone\nfor good': must be one of exited` {
		t.Errorf("OneOf: %v", err)
	}
	if err := f.OneOf("status", "exited", "gone\nfor good"); err != nil {
		t.Errorf("OneOf: %v", err)
	}
}

func TestBool(t *testing.T) {
	f := filters(t, "yes=1", "no=false", "both=true", "both=0", "other=maybe")
	for _, c := range []struct {
		key             string
		otherwise, want bool
		err             string
	}{
		{"yes", false, true, ""}, {"no", true, false, ""}, {"none", true, true, ""}, {"none", false, false, ""},
		{"both", true, true, "invalid filter 'both=true,0'"}, {"other", false, false, "invalid filter 'other=maybe'"},
	} {
		got, err := f.Bool(c.key, c.otherwise)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && err.Error() != c.err {
			t.Errorf("Bool(%s, %v) = %v, %v; want %v, %q", c.key, c.otherwise, got, err, c.want, c.err)
		}
	}
}

func FuzzSet(f *testing.F) {
	f.Add("name=^a(b|c)+$", "abc")
	f.Add("label=a=b", "a")
	f.Fuzz(func(t *testing.T, arg, s string) {
		var filters Filters
		if err := filters.Set(arg); err != nil || arg == "" {
			return
		}
		key, _, _ := strings.Cut(arg, "=")
		key = strings.ToLower(strings.TrimSpace(key))
		if !filters.Has(key) {
			t.Errorf("%q has no key %q", arg, key)
		}
		filters.Match(key, s)
		filters.Labels(key, map[string]string{s: s})
		if err := filters.Check("x"); err != nil && strings.ContainsAny(err.Error(), "\n\r") {
			t.Errorf("%q: an error of more than one line: %v", arg, err)
		}
	})
}
