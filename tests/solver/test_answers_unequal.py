"""More answers that are not the same, one line a pair: a wrong match is worse than a missed one."""

from __future__ import annotations

import pytest

from answer_table import pairs
from lorid_engine.solver.answers import equivalent

UNEQUAL = r"""
ab | ac
ab | a+b
no | yes
it | is
up | down
AB | ab
Ab | aB
cat | tac
arc | car
(c) | D
(c) | 3
(b) 12 | (B) 13
(x) | X
v | V
5m | 5 g
5m | 5 m^2
5x | 5 m
5m/s | 5 m
0, \pm 1 | 0, 1
0, \pm 1 | \pm 1
\{\pm 1\} | \{1\}
(\pm 1, 2) | (1, 2)
\infty - \infty | 0
\infty + 1 | \infty
2\infty | \infty
\frac{\infty}{\infty} | 1
0 \cdot \infty | 0
1_234 | 234
1'23 | 123
1_2 | 12
12_345_6 | 123456
{3 \over 4} | 4/3
3 \over 4 | 34
\overline{34} | 34
\bar{x} | x
0.\bar{3} | 0.3
\bar{3} | 3
4^0.5 | 0.5
4^{0.5} | 1.5
\sin^{-1} x | \frac{1}{\sin x}
\sin^{-1} x | \sin x
Total: 5 | 6
Area: 5 | Perimeter: 5
return: 5 | 5
Note: see 5 | 5
2 feet long | 2 feet wide
5 years old | 5 months old
1 and 1/2 hours | 1/2 hours
1 and 1/2 hours | 1, 1/2
the cat | the dog
a cat | A
(1,2]U[3,4) | (1,2],[3,4)
\left[\begin{array}{cc} 1 & 2 \\ 3 & 4 \end{array}\right] | \begin{pmatrix} 1 & 2 \\ 3 & 5 \end{pmatrix}
\begin{array}{c} 1 \\ 2 \end{array} | \begin{array}{cc} 1 & 2 \end{array}
\frac{5}{6}\% | \frac{6}{5}
16 2/3 | 162/3
(\sqrt{5}-\sqrt{3})^2 | 2
x^2x^3 | x^6
(x^2)^3 | x^5
(x+y+z)^2 | x^2+y^2+z^2
-3x+2 | 3x-2
-3x+2 | -3x-2
-3x+2 | -(3x+2)
100(1.05)^2 | 110
3.0 × 10⁸ | 3.0 × 10⁷
50 | 5e2
1,000 | 1.000
1,000 | 1
1,000 | 1, 000
10,00 | 1000
$1,00 | 100
1:2 | 12
0.5.5 | 0.55
1e5.5 | 1e5
1e | 1
e5 | 5
. | 0
$ | 0
% | 0
\% | 0.01
5$$ | $6
five five | 55
twenty thirty | 50
one two three | 123
hundred one | 101
two hundred | 2
and | or
5m | 5 miles
5m | 6 m
5m | 5 cm
5 years older | 5 years younger
2 and 3/4 cups | 3.75
1.5 million | 1.5 billion
2.5\times 10^6 | 2.5\times 10^5
2.5\times 10^6 | 2.5
10^5 | 10^{-5}
1.2e3 | 1.2
1.2 e 3 | 1200
e3 | 1000
\boxed{5} | \boxed{6}
\boxed{5} 6 | 5
\boxed{5}, \boxed{6} | 5
The answer is 5 | 6
x^2+2x+1 | (x-1)^2
(x+1)(x+2) | (x+1)(x+3)
a^2-b^2 | (a-b)^2
a^2b | ab^2
lw | l+w
\frac{x^2-4}{x+2} | x+2
\frac{\sqrt{2}}{2} | \sqrt{2}
\frac{\sqrt{2}}{2} | 0.7
\frac{\sqrt{2}}{2} | \frac{\sqrt{3}}{2}
\frac{\sqrt{2}}{2} | \frac{2}{\sqrt{2}}
\sqrt{12} | \sqrt{1}2
\sqrt{12} | 6
\sqrt{12} | 3\sqrt{2}
\sqrt{9} | -3
\sqrt[3]{2} | 3\sqrt{2}
\sqrt[3]{2} | 2^3
\sqrt{a^2+b^2} | a+b
\sqrt{x+y} | \sqrt{x}+\sqrt{y}
\frac{-5\pm\sqrt{13}}{2} | \frac{-5+\sqrt{13}}{2}
\frac{-5\pm\sqrt{13}}{2} | \frac{5\pm\sqrt{13}}{2}
y=2x+1 | y=x+2
2x=10 | 10
2x=10 | 2
2x=10 | x=10
y-1=2(x-3) | y-1=2x-3
(x-1)^2+(y+2)^2=9 | (x+1)^2+(y-2)^2=9
x^2=4 | x=2
5=6 | 5=7
5=6 | 5
3+2=6 | 6
3+2=6 | 5
x<5 | x>5
x<5 | x\le 5
x<5 | 5<x
x<5 | 5
3<x<5 | 3<x\le 5
3<x<5 | [3,5]
3<x<5 | 3<x<6
-x<3 | x<3
-x<3 | x<-3
y>2x+1 | y<2x+1
\{1,2,3\} | \{1,2\}
\{1,2,3\} | (1,2,3)
\{1\} | 2
\{red, blue\} | \{red, green\}
(1,2)\cup(3,4) | (1,2)\cup(3,5)
(1,2)\cup(3,4) | (1,4)
(1,2)\cup(3,4) | (1,2),(3,4)
[2,\infty) | (2,\infty)
(50\%, 20\%) | (20\%, 50\%)
5, 6 | 56
5, 6 | 5.6
5 and 6 | 11
3 apples, 4 oranges | 4 apples, 3 oranges
10:00 AM | 10:00 PM
10:00 | 10
1 hour 30 minutes | 1 hour
1 hour 30 minutes | 90 minutes
1 hour 30 minutes | 1 hour 20 minutes
January 1 | January 2
January 1 | February 1
5:3 | 3:5
5:3 | 8
5:3 | 53
1+i | 1-i
3-4i | 3+4i
3-4i | 5
i | j
2i | 2
\cos\frac{\pi}{3} | \cos\frac{\pi}{4}
\ln(2x) | 2\ln x
e^{-x} | e^x
90^\circ | 9
90^\circ | 90\%
10% | 0.001
0.5% | 0.5 dollars
0.5% | 5
200% | 20
five million | five billion
one hundred five | 15
forty | four
forty-two | 24
one thousand | 100
sixty | 6
two | too
seven | eleven
one | 1.1
(A) | (C)
(A) | B
A | D
A) 5 | B) 5
A | A, B
(A) 5 | 5 (B)
(a) | B
red | blue
red ball | blue ball
the dog | the cat
the | a
John and Mary | John
cat | concatenate
north | northeast
12 | 21
12 | 1.2
12 | 1,2
12 | 120
120 | 12e2
1,200 | 12,00
12,00 | 1200
12,34 | 1234
1,2345 | 12345
0,123 | 123
1,23,456 | 123456
1,234,56 | 123456
1.234.567 | 1.234567
.5 | 5
5. | .5
0.5 | 05
1.10 | 1.01
1.0 | 10
-1 | 1
-1/2 | 1/2
-\frac{1}{2} | \frac{1}{2}
x^{2y} | x^2y
x^{23} | x^2 3
2^{10} | 2^10 0
10^{10} | 100
10^{10} | 10^{11}
2^{64} | 18446744073709551615
2^{64}+1 | 2^{64}
100! | 101!
52! | 52
\frac{1}{3} | 0.3334
\frac{1}{3} | 0.33333
1/3 | 0.3
1/4 | 0.250001
0.25 | 0.2500001
99.99999 | 100
1/999999 | 1e-6
1/1000001 | 1e-6
0.1+0.2 | 0.30000000000000004
\frac{355}{113} | \pi
x1 | x_2
x | \times
x | *
a | \alpha
o | 0
O | 0
l | 1
S | 5
\text{cm} | \text{m}
cm | m
2x+3 | 5x
2x+3 | 2x-3
2x3 | 6
x+ | x
=x | =y
+ | -
True | \text{False}
None | 0
None | None of the above
null | 0
undefined | \infty
DNE | 0
\frac{x}{0} | x
0^0 | 0
5/0 | 6/0
\frac{0}{5} | 5
(\infty, 1) | (1, \infty)
1/\infty | 0
\infty-\infty | 0
1/2 | 2
3 | -3
3.14 | 3.15
1e3 | 100
1,234 | (1,234)
10^100 | 10^101
0.3333 | 1/3
22/7 | \pi
0.999999 | 1
1 2 3 | 123
5-5 | 5
10% | 100
50% | 0.005
50% | $50
2\frac{1}{3} | \frac{2}{3}
\frac12 | 12
\frac{1}{2}x | \frac{1}{2x}
0/0 | 1
three | 4
one hundred | 1000
a dozen | 10
three apples | 3 oranges
minus three | 3
5 km | 5 m
5 cm | 5 inches
5 m | 5 minutes
5 m/s | 5 m
5 dollars | 5 cents
£5 | €5
$5 | 500
5 degrees | 5 radians
2 dozen | 24 dozen
$5 per hour | $5 per day
y=2x+1 | x=2y+1
x=1 or x=2 | x=1
f(x)=x^2 | g(x)=x^2
x=5 | x≠5
(1,2) | 12
(1,2] | [1,2)
\{1,2\} | \{1,2,3\}
1, 2 | 1, 2, 3
(0,\infty) | [0,\infty)
(-\infty,2)\cup(3,\infty) | (-\infty,2)\cup[3,\infty)
\emptyset | \{0\}
x>0 | x<0
x>3 | 3
\pm 3 | -3
(1,2),(3,4) | (1,2,3,4)
A | AB
A, B | A, C
A and B | A or C
cat | dog
True | 1
abc | abd
not enough | enough
none | 0
x^2 | x2
x | 1
2x | 2
x^2+y^2 | (x+y)^2
\frac{x}{y} | \frac{y}{x}
a-b | b-a
\sqrt{2} | \sqrt[3]{2}
\sqrt{4} | -2
2\sqrt{3} | \sqrt[2]{3}
2\pi | \pi^2
1+2i | 2+i
\log_2 3 | \log_3 2
|x| | x
-2^2 | 4
2^3 | 3^2
\binom{4}{2} | \frac{4}{2}
\theta | 0
x^{-1} | -x
2:3 | 2:3:4
3:30 pm | 330
July 4 | June 4
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} | \begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}
11_2 | 3
null | null
inf | nan
9^{9^{9^9}} | 1
eval('5') | 5
5 # 6 | 5
print(5) | 5
"5"+"6" | 56
0o17 | 15
\frac | 1
{ | }
_ | __
? | ?
"""


@pytest.mark.parametrize(("a", "b"), pairs(UNEQUAL))
def test_different_answer(a: str, b: str) -> None:
    assert not equivalent(a, b)
    assert not equivalent(b, a)
