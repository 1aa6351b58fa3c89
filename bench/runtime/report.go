package main

import (
	"fmt"
	"slices"
	"strings"
)

// unit is what the values of a work are.
type unit int

const (
	secondsUnit unit = iota
	bytesUnit
)

func (u unit) format(v float64) string {
	switch {
	case u == bytesUnit:
		return fmt.Sprintf("%.2f MB", v/1e6)
	case v >= 1:
		return fmt.Sprintf("%.2f s", v)
	default:
		return fmt.Sprintf("%.1f ms", v*1e3)
	}
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// print shows a work: each side's median and its best, then nslab against each of the others, then the goal.
func (w *work) print() {
	fmt.Printf("%-48s %10s %10s %5s %12s\n", w.name, "median", "least", "runs", "nslab / it")
	ours := w.find("nslab")
	for _, r := range w.results {
		if r.err != nil {
			fmt.Printf("  %-46s failed: %s\n", r.side, strings.ReplaceAll(r.err.Error(), "\n", "; "))
			continue
		}
		if len(r.values) == 0 {
			continue
		}
		fmt.Printf("  %-46s %10s %10s %5d", r.side, w.unit.format(median(r.values)), w.unit.format(slices.Min(r.values)), len(r.values))
		if ours != nil && ours != r {
			fmt.Printf(" %12.2f", median(ours.values)/median(r.values))
		}
		fmt.Println()
	}
	if w.goal != nil {
		fmt.Printf("  to reach: %s\n", w.goal.judge(w, ours))
	}
	fmt.Println()
}

// find gives the side whose name begins so, if it was measured.
func (w *work) find(name string) *result {
	for _, r := range w.results {
		if strings.HasPrefix(r.side, name) && len(r.values) > 0 && r.err == nil {
			return r
		}
	}
	return nil
}

func (g *goal) judge(w *work, ours *result) string {
	limit, want := g.limit, "at most "+w.unit.format(g.limit)
	if g.peer != "" {
		want = fmt.Sprintf("at most %.2f of %s", g.ratio, g.peer)
		peer := w.find(g.peer)
		if peer == nil {
			return want + ": not known, that one was not measured"
		}
		limit = g.ratio * median(peer.values)
		want += ", " + w.unit.format(limit)
	}
	switch {
	case ours == nil:
		return want + ": not known, nslab was not measured"
	case median(ours.values) <= limit:
		return want + ": ok"
	}
	return fmt.Sprintf("%s: NOT REACHED, %.2f times that", want, median(ours.values)/limit)
}
