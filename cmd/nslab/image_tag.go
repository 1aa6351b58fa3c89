package main

import "github.com/spf13/cobra"

func newImageTagCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
		Short: "Give an image one more name",
		Long: `Give an image one more name. If another image has the name, it loses it, and
stays in the store.`,
		Example:               `  nslab image tag bootstrap localhost:5000/tools:v1`,
		DisableFlagsInUseLine: true,
		Args:                  needArgs(2, 2),
		ValidArgsFunction:     completeNames(g.imageNames, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := g.images()
			if err != nil {
				return err
			}
			i, err := s.Resolve(args[0])
			if err != nil {
				return imageError(err)
			}
			return imageError(s.Tag(i, args[1]))
		},
	}
}
