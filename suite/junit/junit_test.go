package junit

import (
	"encoding/xml"
	"testing"

	"github.com/jstemmer/go-junit-report/v2/junit"
)

// What a scenario said can be read again, whatever it was.
func TestFailure(t *testing.T) {
	const said = "red: \x1b[31m\tnul: \x00 no character: \xff\uFFFE end of CDATA: ]]>\n"
	const want = "red: ␛[31m\tnul: ␀ no character: \uFFFD\uFFFD end of CDATA: ]]>\n"
	text, err := xml.Marshal(junit.Testcase{Name: "pid_steps", Failure: Failure("failed\x07", said)})
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Failure struct {
			Message string `xml:"message,attr"`
			Data    string `xml:",chardata"`
		} `xml:"failure"`
	}
	if err := xml.Unmarshal(text, &got); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	if got.Failure.Data != want || got.Failure.Message != "failed␇" {
		t.Errorf("read back: %q; want %q", got.Failure, want)
	}
}
