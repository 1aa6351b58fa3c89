# escape=`
FROM alpine
RUN echo a `
    && echo b\`
 c
ENV PATH_LIKE=C:\dir\ A=`"b
COPY a\b `
     c /
CMD ["a\\b"]
