// Command network is both ends of what bench/network.sh measures beside iperf3: how many new connections come through a
// published port in a second.
//
//	network serve ADDRESS         accept, say one byte, close
//	network dial ADDRESS SECONDS  as many connections as can be had in this time, eight at once; prints how many a second
package main

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "serve":
		return serve(args[1])
	case len(args) == 3 && args[0] == "dial":
		seconds, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		return dial(args[1], time.Duration(seconds)*time.Second)
	}
	return fmt.Errorf("usage: network serve ADDRESS | dial ADDRESS SECONDS")
}

func serve(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			c.Write([]byte{'.'})
			c.Close()
		}()
	}
}

// atOnce is how many clients there are.
const atOnce = 8

func dial(address string, d time.Duration) error {
	var done atomic.Int64
	var last atomic.Pointer[error]
	var all sync.WaitGroup
	start := time.Now()
	for range atOnce {
		all.Go(func() {
			for time.Since(start) < d {
				if err := one(address); err != nil {
					last.Store(&err)
					return
				}
				done.Add(1)
			}
		})
	}
	all.Wait()
	if err := last.Load(); err != nil {
		return *err
	}
	fmt.Printf("%.0f\n", float64(done.Load())/time.Since(start).Seconds())
	return nil
}

func one(address string) error {
	c, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	// Reset at the end: a socket that waits for stray packets keeps its port for a minute, and there are only 28 000.
	c.(*net.TCPConn).SetLinger(0)
	var b [1]byte
	_, err = c.Read(b[:])
	return err
}
