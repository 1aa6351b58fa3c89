package opts

import (
	"fmt"
	"strings"
	"testing"
)

// TestPublish reads all of Docker's forms, and refuses what is none.
func TestPublish(t *testing.T) {
	for _, c := range []struct{ spec, want string }{
		{"80", "80/tcp=:"},
		{"8080:80", "80/tcp=:8080"},
		{"8080:80/udp", "80/udp=:8080"},
		{"8080:80/TCP", "80/tcp=:8080"},
		{"127.0.0.1:8080:80", "80/tcp=127.0.0.1:8080"},
		{"127.0.0.1::80", "80/tcp=127.0.0.1:"},
		{"[::1]:8080:80", "80/tcp=::1:8080"},
		{"0:80", "80/tcp=:"},
		{"8000-8010:80", "80/tcp=:8000-8010"},
		{"8000-8001:80-81", "80/tcp=:8000 81/tcp=:8001"},
		{"80-81", "80/tcp=: 81/tcp=:"},
		{"target=80,published=8080,protocol=udp", "80/udp=:8080"},
		{"target=80", "80/tcp=:"},
		{"", "!"}, {":", "!"}, {"80/foo", "!"}, {"70000:80", "!"}, {"a:80", "!"}, {"80:0", "!"}, {"1.2.3:80:80", "!"}, {"8000-8010:80-81", "!"},
		{"81-80:80", "!"}, {"80\n", "!"}, {"published=80", "!"}, {"target=80,x=1", "!"}, {"-1:80", "!"}, {"80:80:80:80", "!"},
	} {
		spec, err := Publish(c.spec)
		if c.want == "!" {
			if err == nil || strings.Contains(err.Error(), "\n") {
				t.Errorf("-p %q: %q, %v; want an error of one line", c.spec, spec, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("-p %q: %v; want %s", c.spec, err, c.want)
			continue
		}
		_, bindings, err := Ports([]string{spec})
		var got []string
		for _, port := range []string{"80/tcp", "81/tcp", "80/udp"} {
			for _, b := range bindings[port] {
				got = append(got, fmt.Sprintf("%s=%s:%s", port, b.HostIP, b.HostPort))
			}
		}
		if text := strings.Join(got, " "); err != nil || text != c.want {
			t.Errorf("-p %q: %s, %v; want %s", c.spec, text, err, c.want)
		}
	}
}

// TestNetworks reads --network in both forms.
func TestNetworks(t *testing.T) {
	for _, c := range []struct{ value, want string }{
		{"front", "{front [] invalid IP invalid IP }"},
		{"container:x", "{container:x [] invalid IP invalid IP }"},
		{"name=front,alias=a,alias=b,ip=10.0.0.1,ip6=fd00::1,mac-address=02-00-00-00-00-01", "{front [a b] 10.0.0.1 fd00::1 02:00:00:00:00:01}"},
		{"", "!"}, {"a b", "!"}, {"name=front,alias=a\nb", "!"}, {"name=front,ip=fd00::1", "!"}, {"name=front,ip=10.0.0", "!"}, {"alias=a", "!"},
		{"name=front,foo=bar", "!"}, {"name=front,mac-address=01:00:00:00:00:01", "!"}, {"name=front,driver-opt=x=y", "!"}, {"name=..,ip=10.0.0.1", "!"},
	} {
		var n Networks
		err := n.Set(c.value)
		if c.want == "!" {
			if err == nil || strings.Contains(err.Error(), "\n") {
				t.Errorf("--network %q: %v, %v; want an error of one line", c.value, n.Values(), err)
			}
			continue
		}
		if err != nil || fmt.Sprint(n.Values()[0]) != c.want {
			t.Errorf("--network %q: %v, %v; want %s", c.value, n.Values(), err, c.want)
		}
	}
}

// TestExpose reads ports and ranges.
func TestExpose(t *testing.T) {
	for _, c := range []struct {
		spec string
		want int
	}{{"80", 1}, {"80/udp", 1}, {"8000-8010/tcp", 11}, {"80/foo", 0}, {"0", 0}, {"80:80", 0}, {"", 0}, {"a", 0}, {"9-8", 0}, {"65536", 0}} {
		got, err := Exposed([]string{c.spec})
		if len(got) != c.want || (err == nil) != (c.want > 0) {
			t.Errorf("--expose %q: %v, %v; want %d ports", c.spec, got, err, c.want)
		}
	}
}
