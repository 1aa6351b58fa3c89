package course

import (
	"slices"
	"testing"
)

func TestWrap(t *testing.T) {
	for _, test := range []struct {
		text  string
		limit int
		want  []string
	}{
		{"", 10, []string{""}},
		{"one two three", 8, []string{"one two", "three"}},
		{"one two", 20, []string{"one two"}},
		// A word goes to the next line whole; only one that fits no line is broken, after a slash or a bar.
		{"see (/proc/42/root/tmp)", 20, []string{"see", "(/proc/42/root/tmp)"}},
		{"/sys/fs/cgroup/cpu/nslab-03", 16, []string{"/sys/fs/cgroup/", "cpu/nslab-03"}},
		{"CLONE_NEWPID|CLONE_NEWNS|SIGCHLD", 14, []string{"CLONE_NEWPID|", "CLONE_NEWNS|", "SIGCHLD"}},
		{"aaaaaaaaaaaaaaaaaaaa", 8, []string{"aaaaaaaa", "aaaaaaaa", "aaaa"}},
		{"see /a/long/path here", 12, []string{"see", "/a/long/path", "here"}},
		{"mkdir(\"/sys/fs/cgroup/memory/nslab-doctor\", 0755)", 30, []string{"mkdir(\"/sys/fs/cgroup/memory/", "nslab-doctor\", 0755)"}},
		{"write 1 → /sys/fs/cgroup/x", 20, []string{"write 1 →", "/sys/fs/cgroup/x"}},
		{"挂载到 /sys/fs/cgroup。", 20, []string{"挂载到", "/sys/fs/cgroup。"}},
		{"it used 20.1 % of it", 12, []string{"it used", "20.1 % of it"}},
		// Two columns a character; no line begins with closing punctuation.
		{"命名空间，控制组", 8, []string{"命名空", "间，控制", "组"}},
		{"用 clone 启动", 8, []string{"用 clone", "启动"}},
	} {
		if got := Wrap(test.text, test.limit); !slices.Equal(got, test.want) {
			t.Errorf("Wrap(%q, %d) = %q; want %q", test.text, test.limit, got, test.want)
		}
	}
}

func TestJoinLines(t *testing.T) {
	for _, test := range []struct {
		lines []string
		want  string
	}{
		{[]string{"one", "two"}, "one two"},
		{[]string{"命名", "空间"}, "命名空间"},
		{[]string{"控制组，", "`clone`"}, "控制组，`clone`"},
		{[]string{"调用 `clone`", "启动"}, "调用 `clone` 启动"},
		{[]string{"内核", "PID"}, "内核 PID"},
	} {
		if got := joinLines(test.lines); got != test.want {
			t.Errorf("joinLines(%q) = %q; want %q", test.lines, got, test.want)
		}
	}
}
