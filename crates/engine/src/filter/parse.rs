//! From a filter's text to its tree, by AIP-160's grammar: OR binds more tightly than AND, and comparisons side by side
//! are joined by AND.

use crate::filter::error::{FilterError, FilterProblem};
use crate::filter::literal::{Literal, Star};
use crate::filter::{Expression, FILTER_BYTES_MAX, FILTER_DEPTH_MAX, FILTER_TERMS_MAX, Operator, Test};

/// Characters of a filter that is too long which its error shows.
const SHOWN_CHARACTERS: usize = 60;

const HINT_OPERATOR: &str = "write one of = != < <= > >= : and a value; words to search for belong into the query text";
const HINT_CAPITALS: &str = "AND, OR and NOT are written in capitals";
const HINT_SEVERAL: &str = "for one of several values, write field = a OR field = b";
const HINT_CONTAINS: &str = "write : for contained words, or = with a star at either end of the value";
const HINT_EXISTS: &str = "write field:* for a field that is there, NOT field:* for one that is not";
const HINT_QUOTE: &str = "put the value into double quotes";
const HINT_STAR: &str = "a star goes at the beginning or the end; write \\* for the character itself";
const HINT_ESCAPE: &str = "write \\\\ for a backslash; the others are \\\" \\' \\* \\n \\t";

type Parsed<T> = Result<T, FilterError>;

/// Parses a whole filter.
pub(super) fn parse(text: &str) -> Parsed<Expression> {
    if text.len() > FILTER_BYTES_MAX {
        let shown = text.chars().take(SHOWN_CHARACTERS).collect();
        return Err(FilterError {
            text: shown,
            column: 1,
            problem: FilterProblem::TooLong(text.len()),
            hint: None,
        });
    }
    let mut parser = Parser {
        text,
        chars: text.chars().collect(),
        at: 0,
        depth: 0,
        terms: 0,
    };
    parser.skip_spaces();
    if parser.peek().is_none() {
        return Ok(Expression::All);
    }
    let expression = parser.expression(Before::Start)?;
    match parser.peek() {
        None => Ok(expression),
        Some(_) => Err(parser.error(parser.at, FilterProblem::NeverOpened, None)),
    }
}

struct Parser<'a> {
    text: &'a str,
    chars: Vec<char>,
    at: usize,
    depth: usize,
    terms: usize,
}

/// What stands before the place where a comparison is wanted.
#[derive(Clone, Copy)]
enum Before {
    Start,
    /// A parenthesis that opened here.
    Parenthesis(usize),
    Word(&'static str),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Keyword {
    And,
    Or,
    Not,
}

/// One character of a value, and whether it is a wildcard.
struct ValueCharacter {
    c: char,
    wildcard: bool,
    at: usize,
}

impl Parser<'_> {
    fn expression(&mut self, before: Before) -> Parsed<Expression> {
        let mut parts = Vec::new();
        let mut before = before;
        loop {
            self.sequence(before, &mut parts)?;
            if !self.take_keyword(Keyword::And) {
                return Ok(one_or(parts, Expression::And));
            }
            before = Before::Word("AND");
        }
    }

    /// Comparisons side by side, up to an AND, a closing parenthesis or the end.
    fn sequence(&mut self, before: Before, parts: &mut Vec<Expression>) -> Parsed<()> {
        parts.push(self.factor(before)?);
        while self.peek().is_some_and(|c| c != ')') && self.keyword() != Some(Keyword::And) {
            parts.push(self.factor(Before::Word("this"))?);
        }
        Ok(())
    }

    fn factor(&mut self, before: Before) -> Parsed<Expression> {
        let mut parts = vec![self.term(before)?];
        while self.take_keyword(Keyword::Or) {
            parts.push(self.term(Before::Word("OR"))?);
        }
        Ok(one_or(parts, Expression::Or))
    }

    /// A comparison or a group, negated or not. Leaves no space behind it.
    fn term(&mut self, before: Before) -> Parsed<Expression> {
        self.skip_spaces();
        let at = self.at;
        match (self.peek(), self.keyword()) {
            (None | Some(')'), _) => Err(self.nothing_here(before)),
            (_, Some(keyword @ (Keyword::And | Keyword::Or))) => Err(match before {
                Before::Word(_) => self.nothing_here(before),
                _ => self.error(at, FilterProblem::NothingBefore(keyword.text()), None),
            }),
            (_, Some(Keyword::Not)) => {
                self.take_keyword(Keyword::Not);
                self.nested(at, |parser| parser.term(Before::Word("NOT")))
                    .map(|part| Expression::Not(Box::new(part)))
            }
            (Some('-'), _) if self.chars.get(at + 1).is_some_and(|c| !c.is_whitespace()) => {
                self.at += 1;
                self.nested(at, |parser| parser.term(Before::Word("-")))
                    .map(|part| Expression::Not(Box::new(part)))
            }
            (Some('('), _) => self.nested(at, |parser| parser.group(at)),
            _ => self.test(),
        }
    }

    fn nothing_here(&self, before: Before) -> FilterError {
        match before {
            Before::Start => self.error(self.at, FilterProblem::NeverOpened, None),
            Before::Parenthesis(at) if self.peek().is_none() => self.error(at, FilterProblem::NeverClosed, None),
            Before::Parenthesis(at) => self.error(at, FilterProblem::EmptyParentheses, None),
            Before::Word(word) => self.error(self.at, FilterProblem::ComparisonMissing(word), None),
        }
    }

    fn nested<T>(&mut self, at: usize, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth == FILTER_DEPTH_MAX {
            return Err(self.error(at, FilterProblem::TooDeep, None));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn group(&mut self, opened: usize) -> Parsed<Expression> {
        self.at += 1;
        let expression = self.expression(Before::Parenthesis(opened))?;
        if self.peek() != Some(')') {
            return Err(self.error(opened, FilterProblem::NeverClosed, None));
        }
        self.at += 1;
        self.skip_spaces();
        Ok(expression)
    }

    fn test(&mut self) -> Parsed<Expression> {
        let start = self.at;
        let path = self.path()?;
        let end = self.at;
        self.terms += 1;
        if self.terms > FILTER_TERMS_MAX {
            return Err(self.error(start, FilterProblem::TooMany, None));
        }
        if self.peek() == Some('(') {
            return Err(self.error(start, FilterProblem::Function(self.between(start, end)), None));
        }
        self.skip_spaces();
        let operator = self.operator(start, end)?;
        let (operator, literal) = self.value(operator)?;
        self.skip_spaces();
        Ok(Expression::Test(Test {
            path,
            operator,
            literal,
        }))
    }

    fn path(&mut self) -> Parsed<Vec<String>> {
        let mut path = vec![self.path_part(true)?];
        while self.peek() == Some('.') {
            self.at += 1;
            path.push(self.path_part(false)?);
        }
        Ok(path)
    }

    fn path_part(&mut self, first: bool) -> Parsed<String> {
        let start = self.at;
        if let Some(quote @ ('"' | '\'')) = self.peek() {
            let part = self.quoted(quote)?;
            return match self.peek() {
                Some(c) if is_name(c) => Err(self.error(self.at, FilterProblem::SpaceMissing(quote), None)),
                _ => Ok(part.into_iter().map(|character| character.c).collect()),
            };
        }
        while self.peek().is_some_and(is_name) {
            self.at += 1;
        }
        if self.at > start {
            return Ok(self.between(start, self.at));
        }
        match self.peek() {
            Some(c) if first && c != '.' => {
                let hint = match c {
                    '&' => Some("write AND"),
                    '|' => Some("write OR"),
                    '!' => Some("write NOT or -"),
                    _ => None,
                };
                Err(self.error(start, FilterProblem::NotAComparison(c), hint))
            }
            _ => Err(self.error(
                start,
                FilterProblem::EmptyPart,
                Some("a part with a dot in it goes into double quotes"),
            )),
        }
    }

    fn operator(&mut self, start: usize, end: usize) -> Parsed<Operator> {
        let (this, next) = (self.peek(), self.chars.get(self.at + 1).copied());
        let unknown = |text, hint| Err(self.error(self.at, FilterProblem::UnknownOperator(text), Some(hint)));
        let operator = match (this, next) {
            (Some('='), Some('=')) => return unknown("==", "write ="),
            (Some('='), Some('>')) => return unknown("=>", "write >="),
            (Some('='), Some('<')) => return unknown("=<", "write <="),
            (Some('<'), Some('>')) => return unknown("<>", "write !="),
            (Some('='), _) => Operator::Equal,
            (Some('!'), Some('=')) => Operator::NotEqual,
            (Some('<'), Some('=')) => Operator::LessOrEqual,
            (Some('<'), _) => Operator::Less,
            (Some('>'), Some('=')) => Operator::GreaterOrEqual,
            (Some('>'), _) => Operator::Greater,
            (Some(':'), _) => Operator::Has,
            _ => return Err(self.operator_missing(start, end)),
        };
        self.at += operator.text().len();
        Ok(operator)
    }

    fn operator_missing(&self, start: usize, end: usize) -> FilterError {
        let name = self.between(start, end);
        let word = |from: usize| -> String { self.chars[from..].iter().take_while(|c| is_name(**c)).collect() };
        let hint = match (name.to_lowercase().as_str(), word(self.at).to_lowercase().as_str()) {
            ("and" | "or" | "not", _) => HINT_CAPITALS,
            (_, "in") => HINT_SEVERAL,
            (_, "like" | "contains") => HINT_CONTAINS,
            (_, "is" | "exists") => HINT_EXISTS,
            _ => HINT_OPERATOR,
        };
        self.error(end, FilterProblem::OperatorMissing(name), Some(hint))
    }

    fn value(&mut self, operator: Operator) -> Parsed<(Operator, Literal)> {
        let missing_at = self.at;
        self.skip_spaces();
        let start = self.at;
        let missing = |parser: &Self| Err(parser.error(missing_at, FilterProblem::ValueMissing(operator.text()), None));
        let (characters, quoted) = match self.peek() {
            None | Some(')') => return missing(self),
            Some('(') => return Err(self.error(start, FilterProblem::ValueInParentheses, Some(HINT_SEVERAL))),
            Some(_) if self.keyword().is_some() => return missing(self),
            Some(quote @ ('"' | '\'')) => {
                let value = self.quoted(quote)?;
                if self.peek().is_some_and(|c| !c.is_whitespace() && c != ')') {
                    return Err(self.error(self.at, FilterProblem::SpaceMissing(quote), None));
                }
                (value, true)
            }
            Some(_) => (self.unquoted()?, false),
        };
        if characters.is_empty() && operator == Operator::Has {
            return missing(self);
        }
        self.literal(operator, characters, quoted, start)
    }

    /// What a value means to its operator.
    fn literal(
        &self,
        operator: Operator,
        mut characters: Vec<ValueCharacter>,
        quoted: bool,
        start: usize,
    ) -> Parsed<(Operator, Literal)> {
        let before = characters.first().is_some_and(|first| first.wildcard);
        let after = characters.len() > 1 && characters.last().is_some_and(|last| last.wildcard);
        characters.drain(..usize::from(before));
        characters.truncate(characters.len() - usize::from(after));
        if let Some(within) = characters.iter().find(|character| character.wildcard) {
            return Err(self.error(within.at, FilterProblem::StarWithin, Some(HINT_STAR)));
        }
        let text: String = characters.into_iter().map(|character| character.c).collect();
        let star = match (before, after) {
            (false, false) => Star::None,
            (false, true) => Star::After,
            (true, false) => Star::Before,
            (true, true) => Star::Around,
        };
        let fail = |problem, hint| Err(self.error(start, problem, Some(hint)));
        let literal = if quoted {
            Literal::quoted(text, star)
        } else {
            Literal::bare(text, star)
        };
        match (operator, star) {
            (Operator::Has, Star::None) => {}
            (Operator::Has, _) if literal.text.is_empty() => return Ok((Operator::Exists, literal)),
            (Operator::Equal | Operator::NotEqual, Star::None) => {}
            (Operator::Equal | Operator::NotEqual, _) if literal.text.is_empty() => {
                return fail(FilterProblem::StarAlone(operator.text()), HINT_EXISTS);
            }
            (Operator::Equal | Operator::NotEqual, _) => return Ok((operator, literal)),
            (Operator::Has, _) => return fail(FilterProblem::StarNotAllowed(":"), HINT_CONTAINS),
            (_, Star::None) if literal.truth.is_some() => {
                return fail(FilterProblem::NoOrder(literal.text), "compare it by = or !=");
            }
            (_, Star::None) => {}
            _ => return fail(FilterProblem::StarNotAllowed(operator.text()), HINT_STAR),
        }
        if !quoted && literal.text == "null" {
            return fail(FilterProblem::Null, HINT_EXISTS);
        }
        Ok((operator, literal))
    }

    fn unquoted(&mut self) -> Parsed<Vec<ValueCharacter>> {
        let mut value = Vec::new();
        let start = self.at;
        while let Some(c) = self.peek() {
            match c {
                ')' => break,
                c if c.is_whitespace() => break,
                '(' => {
                    return Err(self.error(
                        start,
                        FilterProblem::Function(self.between(start, self.at)),
                        Some(HINT_QUOTE),
                    ));
                }
                '=' | '<' | '>' | ',' | '"' | '\'' => {
                    return Err(self.error(self.at, FilterProblem::UnquotedCharacter(c), Some(HINT_QUOTE)));
                }
                _ => value.push(self.value_character()?),
            }
        }
        Ok(value)
    }

    fn quoted(&mut self, quote: char) -> Parsed<Vec<ValueCharacter>> {
        let opened = self.at;
        self.at += 1;
        let mut value = Vec::new();
        while let Some(c) = self.peek() {
            if c == quote {
                self.at += 1;
                return Ok(value);
            }
            value.push(self.value_character()?);
        }
        Err(self.error(opened, FilterProblem::QuoteNeverClosed(quote), None))
    }

    fn value_character(&mut self) -> Parsed<ValueCharacter> {
        let at = self.at;
        let c = self.chars[at];
        self.at += 1;
        if c != '\\' {
            return Ok(ValueCharacter {
                c,
                wildcard: c == '*',
                at,
            });
        }
        let escaped = self.peek().unwrap_or(' ');
        self.at += 1;
        let c = match escaped {
            '\\' | '"' | '\'' | '*' => escaped,
            'n' => '\n',
            't' => '\t',
            _ => return Err(self.error(at, FilterProblem::UnknownEscape(escaped), Some(HINT_ESCAPE))),
        };
        Ok(ValueCharacter { c, wildcard: false, at })
    }

    fn keyword(&self) -> Option<Keyword> {
        let rest = &self.chars[self.at..];
        let ends = |length: usize| {
            rest.get(length)
                .is_none_or(|c| c.is_whitespace() || "()\"'".contains(*c))
        };
        let is = |keyword: &Keyword| {
            let text = keyword.text();
            rest.len() >= text.len() && text.chars().eq(rest[..text.len()].iter().copied()) && ends(text.len())
        };
        [Keyword::And, Keyword::Or, Keyword::Not].into_iter().find(is)
    }

    fn take_keyword(&mut self, keyword: Keyword) -> bool {
        let found = self.keyword() == Some(keyword);
        if found {
            self.at += keyword.text().len();
        }
        found
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn skip_spaces(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn between(&self, start: usize, end: usize) -> String {
        self.chars[start..end].iter().collect()
    }

    fn error(&self, at: usize, problem: FilterProblem, hint: Option<&'static str>) -> FilterError {
        FilterError {
            text: self.text.to_owned(),
            column: at + 1,
            problem,
            hint,
        }
    }
}

impl Keyword {
    fn text(self) -> &'static str {
        match self {
            Self::And => "AND",
            Self::Or => "OR",
            Self::Not => "NOT",
        }
    }
}

impl Operator {
    fn text(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Has | Self::Exists => ":",
        }
    }
}

/// Characters of an unquoted part of a field's name.
fn is_name(c: char) -> bool {
    !c.is_whitespace() && !".=!<>:()\"',&|*".contains(c)
}

fn one_or(mut parts: Vec<Expression>, many: impl FnOnce(Vec<Expression>) -> Expression) -> Expression {
    if parts.len() == 1 { parts.remove(0) } else { many(parts) }
}
