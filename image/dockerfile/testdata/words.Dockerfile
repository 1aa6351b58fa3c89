# syntax=docker/dockerfile:1
# escape=\

# A page of words in all their forms.
ARG BASE=debian:12 EMPTY= BARE
FROM --platform=linux/amd64 ${BASE} AS words
ENV ONE=1 TWO="two words" THREE=three\ words FOUR='$ONE' FIVE="a\"b" SIX=
ENV OLD form with  several   words
LABEL org.example.title="A title" "quoted key"="value" multi="line one \
line two"
ENV CONTINUED=a \
    # a comment in between
    ALSO=b \

    LAST=c
EXPOSE 80 443/tcp 8000-8010/udp
VOLUME /data /var/log
VOLUME ["/a b", "/c"]
USER app:staff
WORKDIR /srv/${ONE:-x}/app
STOPSIGNAL SIGTERM
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
CMD echo "hello $ONE"
ENTRYPOINT ["/bin/sh", "-c", "exec \"$@\""]
MAINTAINER Somebody <somebody@example.org>
