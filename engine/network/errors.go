package network

import (
	"errors"
	"fmt"
	"net/netip"
)

// Reasons why something cannot be.
var (
	ErrExists     = errors.New("already exists")
	ErrInUse      = errors.New("has active endpoints")
	ErrPredefined = errors.New("is a pre-defined network and cannot be removed")
	ErrFull       = errors.New("no available addresses")
	ErrName       = errors.New("only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
	ErrTaken      = errors.New("address already in use")
	ErrOverlap    = errors.New("it overlaps")
)

// NotFoundError is a network that is not there.
type NotFoundError struct{ Ref string }

func (e *NotFoundError) Error() string { return fmt.Sprintf("network %s not found", quoted(e.Ref)) }

// Error is something about a network that cannot be.
type Error struct {
	Network string
	What    string // "subnet 10.0.0.0/8"
	Err     error
	Hint    string
}

func (e *Error) Error() string {
	switch {
	case e.Network == "":
		return fmt.Sprintf("%s: %v", e.What, e.Err)
	case e.What == "":
		return fmt.Sprintf("network %s %v", quoted(e.Network), e.Err)
	}
	return fmt.Sprintf("network %s: %s: %v", quoted(e.Network), e.What, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// TakenError is an address that another container has.
type TakenError struct {
	Address netip.Addr
	Network string
	Owner   string // the container's id; empty for the network's own gateway or an auxiliary address
}

func (e *TakenError) Error() string {
	if e.Owner == "" {
		return fmt.Sprintf("address %s is reserved on network %s", e.Address, e.Network)
	}
	return fmt.Sprintf("address %s is already in use on network %s by container %s", e.Address, e.Network, e.Owner[:min(12, len(e.Owner))])
}

func (e *TakenError) Is(target error) bool { return target == ErrTaken }

// quoted is a name in a message: on one line, whatever was typed.
func quoted(name string) string {
	if CheckName(name) == nil {
		return name
	}
	return fmt.Sprintf("%q", name)
}
