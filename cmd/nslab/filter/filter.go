// Package filter understands --filter KEY=VALUE, as Docker's lists take it.
//
// The idea: a filter may be given again and again. Different keys must all match; of the values of one key one is enough,
// but for labels, all of which must be there. [Filters] is the flag, a [pflag.Value]; [Filters.Check] refuses keys that a
// list does not know. How a value is compared is the key's business: exactly, as the beginning, as a regular expression.
//
// The limits: it compares words and knows nothing of containers or images. Which keys there are, and what they look at, is
// the lists' affair.
//
// [pflag.Value]: https://pkg.go.dev/github.com/spf13/pflag#Value
package filter

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Filters are what was asked for. The zero value matches everything.
type Filters struct {
	values map[string][]string
}

// Error is a filter that is wrong.
type Error struct {
	Key    string
	Values []string
	Err    error    // more about it, or nil
	Known  []string // the keys there are, where this is none of them
}

func (e *Error) Error() string {
	what := e.Key
	if e.Values != nil {
		what += "=" + strings.Join(e.Values, ",")
	}
	if e.Err != nil {
		return fmt.Sprintf("invalid filter '%s': %v", printable(what), e.Err)
	}
	return fmt.Sprintf("invalid filter '%s'", printable(what))
}

func (e *Error) Unwrap() error { return e.Err }

// printable keeps what a user has typed on one line.
func printable(s string) string { q := fmt.Sprintf("%q", s); return q[1 : len(q)-1] }

// Set is called for each --filter. Case and blanks around the key do not count.
func (f *Filters) Set(arg string) error {
	if arg == "" {
		return nil
	}
	key, value, ok := strings.Cut(arg, "=")
	if !ok {
		return errors.New("bad format of filter (expected name=value)")
	}
	f.Add(strings.ToLower(strings.TrimSpace(key)), strings.TrimSpace(value))
	return nil
}

// Add is Set with the two parts apart.
func (f *Filters) Add(key, value string) {
	if f.values == nil {
		f.values = map[string][]string{}
	}
	if !slices.Contains(f.values[key], value) {
		f.values[key] = append(f.values[key], value)
	}
}

func (f *Filters) String() string {
	var list []string
	for _, key := range slices.Sorted(maps.Keys(f.values)) {
		for _, value := range f.values[key] {
			list = append(list, key+"="+value)
		}
	}
	return strings.Join(list, " ")
}

// Type is the word for the value in the help.
func (*Filters) Type() string { return "filter" }

// Check refuses keys other than these.
func (f Filters) Check(keys ...string) error {
	for _, key := range slices.Sorted(maps.Keys(f.values)) {
		if !slices.Contains(keys, key) {
			return &Error{Key: key, Known: keys}
		}
	}
	return nil
}

// Has says whether there is a filter with this key.
func (f Filters) Has(key string) bool { return len(f.values[key]) > 0 }

// Get returns the values of a key.
func (f Filters) Get(key string) []string { return slices.Clone(f.values[key]) }

// The following compare what an object has with the values of a key. Without any, all objects match.

// Exact wants one of the values to be s.
func (f Filters) Exact(key, s string) bool {
	return !f.Has(key) || slices.Contains(f.values[key], s)
}

// Prefix wants s to begin with one of the values.
func (f Filters) Prefix(key, s string) bool {
	return !f.Has(key) || slices.ContainsFunc(f.values[key], func(value string) bool { return strings.HasPrefix(s, value) })
}

// Match wants one of the values to be s, or to be found in it as a regular expression. As with Docker, one that is no
// regular expression finds nothing.
func (f Filters) Match(key, s string) bool {
	return f.Exact(key, s) || slices.ContainsFunc(f.values[key], func(value string) bool {
		found, err := regexp.MatchString(value, s)
		return err == nil && found
	})
}

// Labels wants all of the values, "name" or "name=value", to be among the labels.
func (f Filters) Labels(key string, labels map[string]string) bool {
	for _, value := range f.values[key] {
		name, want, exact := strings.Cut(value, "=")
		if got, has := labels[name]; !has || exact && got != want {
			return false
		}
	}
	return true
}

// Bool returns what a key that is true or false says, and otherwise without it.
func (f Filters) Bool(key string, otherwise bool) (bool, error) {
	if !f.Has(key) {
		return otherwise, nil
	}
	is := func(words ...string) bool {
		return slices.ContainsFunc(f.values[key], func(v string) bool { return slices.Contains(words, v) })
	}
	yes, no := is("1", "true"), is("0", "false")
	if yes == no {
		return otherwise, &Error{Key: key, Values: f.Get(key)}
	}
	return yes, nil
}

// OneOf wants each value of a key to be one of these words.
func (f Filters) OneOf(key string, words ...string) error {
	for _, value := range f.values[key] {
		if !slices.Contains(words, value) {
			return &Error{Key: key, Values: []string{value}, Err: fmt.Errorf("must be one of %s", strings.Join(words, ", "))}
		}
	}
	return nil
}
