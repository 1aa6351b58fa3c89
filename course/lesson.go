package course

import (
	"bufio"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"sync"
)

// lesson is the prose of a lab in one language, parsed from lesson.md or lesson.zh.md.
//
// The file is a handout that reads well on its own. Its form:
//
//	# 03 · cgroups: a title
//
//	An introduction, for the handout only.
//
//	## limit-cpu: Limit the loop to 20 % of a CPU
//
//	Why this step: shown before it runs. Several paragraphs may follow each other.
//
//	> **Pitfall:** the mistake a learner will meet, shown after the evidence.
//
//	? A prediction, asked before the step runs?
//	1. one outcome
//	2. another
type lesson struct {
	title    string
	sections []section
}

// section is the prose of one step.
type section struct {
	id, title string
	why       []string // paragraphs
	pitfall   string
	question  string
	choices   []string
}

var (
	sectionHead = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^## ([a-z0-9-]+): (.+)$`) })
	choiceLine  = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^\d+\. (.+)$`) })
	emphasis    = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile("\\*([^\\s*`][^*`]*)\\*") })
	boldPrefix  = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^\*\*[^*]+\*\*\s*`) })
)

// lessonOf reads the lab's lesson in lang, "en" or "zh".
func lessonOf(l *Lab, lang string) (*lesson, error) {
	name := "lesson.md"
	if lang == "zh" {
		name = "lesson.zh.md"
	}
	text, err := fs.ReadFile(l.Files, name)
	if err != nil {
		return nil, fmt.Errorf("lesson of %s: %w", l.Name(), err)
	}
	le, err := parseLesson(string(text))
	if err != nil {
		return nil, fmt.Errorf("lesson of %s: %s: %w", l.Name(), name, err)
	}
	return le, nil
}

func parseLesson(text string) (*lesson, error) {
	le := &lesson{}
	var s *section // nil in the introduction
	var paragraph []string
	endParagraph := func() {
		if s != nil && len(paragraph) > 0 {
			s.why = append(s.why, plain(joinLines(paragraph)))
		}
		paragraph = nil
	}
	lines := bufio.NewScanner(strings.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimRight(lines.Text(), " ")
		head := sectionHead().FindStringSubmatch(line)
		choice := choiceLine().FindStringSubmatch(line)
		switch {
		case head != nil:
			endParagraph()
			le.sections = append(le.sections, section{id: head[1], title: head[2]})
			s = &le.sections[len(le.sections)-1]
		case strings.HasPrefix(line, "## "):
			return nil, fmt.Errorf("line %d: a section is headed '## step-id: Title'", n)
		case strings.HasPrefix(line, "# ") && s == nil:
			le.title = line[2:]
		case s != nil && strings.HasPrefix(line, ">"):
			endParagraph()
			text := boldPrefix().ReplaceAllString(strings.TrimSpace(line[1:]), "")
			s.pitfall = joinLines([]string{s.pitfall, plain(text)})
		case s != nil && strings.HasPrefix(line, "? "):
			endParagraph()
			s.question = plain(line[2:])
		case s != nil && s.question != "" && choice != nil:
			s.choices = append(s.choices, plain(choice[1]))
		case line == "":
			endParagraph()
		default:
			paragraph = append(paragraph, line)
		}
	}
	endParagraph()
	return le, lines.Err()
}

// section finds the prose of a step; a step without any still runs, under its id.
func (le *lesson) section(id string) section {
	for _, s := range le.sections {
		if s.id == id {
			return s
		}
	}
	return section{id: id, title: id}
}

// plain drops the stars of emphasis, which a terminal does not show. Code keeps its quotes.
func plain(s string) string { return emphasis().ReplaceAllString(s, "$1") }

// joinLines undoes the line breaks of the source. A space goes between words, and between a word and a Chinese character,
// but not between two Chinese characters nor beside their punctuation.
func joinLines(lines []string) string {
	var b strings.Builder
	for _, line := range lines {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		if s := b.String(); s != "" && spaced(s, line) {
			b.WriteByte(' ')
		}
		b.WriteString(line)
	}
	return b.String()
}
