//go:build !amd64

package main

func compat() { holds("other tables of calls", "this machine has none") }
