package format

import (
	"text/template"
	"text/template/parse"
)

// fieldsOf are the fields of the row that a template has. It leaves out what stands inside {{range}} and {{with}}, where
// the dot is something else, but finds $.Field there. The whole row, {{json .}}, is the field ".".
func fieldsOf(t *template.Template) map[string]bool {
	found := map[string]bool{}
	if t.Tree != nil {
		walk(t.Root, true, found)
	}
	return found
}

// walk looks at a node and those below. row says whether the dot is the row.
func walk(node parse.Node, row bool, found map[string]bool) {
	switch n := node.(type) {
	case *parse.ListNode:
		if n == nil {
			return
		}
		for _, child := range n.Nodes {
			walk(child, row, found)
		}
	case *parse.ActionNode:
		walk(n.Pipe, row, found)
	case *parse.TemplateNode:
		walk(n.Pipe, row, found)
	case *parse.IfNode:
		walkBranch(&n.BranchNode, row, row, found)
	case *parse.RangeNode:
		walkBranch(&n.BranchNode, row, false, found)
	case *parse.WithNode:
		walkBranch(&n.BranchNode, row, false, found)
	case *parse.PipeNode:
		if n == nil {
			return
		}
		for _, command := range n.Cmds {
			for _, arg := range command.Args {
				walk(arg, row, found)
			}
		}
	case *parse.ChainNode:
		walk(n.Node, row, found)
	case *parse.DotNode:
		if row {
			found["."] = true
		}
	case *parse.FieldNode:
		if row {
			found[n.Ident[0]] = true
		}
	case *parse.VariableNode:
		switch {
		case n.Ident[0] != "$":
		case len(n.Ident) > 1:
			found[n.Ident[1]] = true
		default:
			found["."] = true
		}
	}
}

func walkBranch(n *parse.BranchNode, row, inside bool, found map[string]bool) {
	walk(n.Pipe, row, found)
	walk(n.List, inside, found)
	walk(n.ElseList, row, found)
}
